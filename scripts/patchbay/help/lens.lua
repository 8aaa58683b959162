return {
  { name = "patchbay.lens", summary = "What the stream says before the end: lenses, attribution to components, rollout and flow, neurons.",
    text = [[
local lens = require "patchbay.lens"

The logit lens is a patch: the last stream gets an earlier one's value, and the model's own final norm and unembedding do the rest. Where
peers differ: TransformerLens's logit_attrs and apply_ln_to_stack leave out ln_final's weight and bias on raw weights; here they are in.
process_weights_ moves b_V out of z, so that per-head attributions of a processed model differ by a constant.
A lens and an attribution say what is written, not what is used: see patchbay.path and patchbay.patching.]] },
  { name = "patchbay.lens.logits", signature = "lens.logits(run [, { tuned = }]) -> tensor [layers + 1, pos, vocab]",
    summary = "Logits read off the stream before each layer; the last entry is the model's own." },
  { name = "patchbay.lens.grid", signature = "lens.grid(run, { answer =, metric = \"prob\", wrong =, pos = \"all\", tuned = }) -> grid [layer, pos]",
    summary = "What the lens says of an answer, layer by layer and position by position.",
    text = "metric: prob, logit, log_prob, rank, logit_diff (needs wrong), or kl (from the model's own prediction; needs no answer).",
    example = [[lens.grid(run, { answer = " Paris", metric = "rank" }):heatmap "lens.png"]] },
  { name = "patchbay.lens.top", signature = "lens.top(run [, { k = 5, pos = -1, tuned = }]) -> list by layer of { token =, id =, prob = }",
    summary = "The likeliest tokens of the lens at one position." },
  { name = "patchbay.lens.train",
    signature = "lens.train(model, runs [, { steps = 100, rate = 0.005, batch = 16, start =, held_out =, decay = 0.1, ridge = 0.1, seed = }]) -> tuned",
    summary = "A tuned lens (Belrose et al. 2023): an affine translator per layer, trained to predict what the model says.",
    text = [[
Every layer has a matrix A [d_model, d_model] and a vector b [d_model] (tuned.A[layer + 1], tuned.b[layer + 1]); the lens reads stream + stream A + b. They
minimise the KL divergence from the model's prediction to the lens's, mean over positions, by Adam with decay of A (towards the logit lens) and a rate
that falls to nothing in a straight line; a step takes `batch` runs. start: "least_squares" (the closed form that comes nearest to the last stream;
ridge: its penalty as a share of the stream's mean square) or "identity" (the logit lens, as in the paper). steps = 0 leaves the start as it is.
tuned.report: a grid [lens, layer] of the KL divergence on runs that were not trained on, of the logit lens, the start and the trained lens; held_out: these
runs, else every fifth of those given. tuned:quality(runs): the same of the logit lens and this one on other runs. A lens of few runs learns
them by heart: compare.]],
    example = [[local tuned = lens.train(model, model:runs(prompts))
print(tuned.report)
lens.grid(run, { answer = " Paris", tuned = tuned })]] },
  { name = "patchbay.lens.attribution", signature = "lens.attribution(run, { answer =, wrong =, pos = -1, neurons = false }) or (set, { pos =, side = \"clean\" }) -> table",
    summary = "Direct logit attribution: each component's part of the answer's logit (minus the wrong one's).",
    text = [[
The final norm is held at its scale in the run, so that the logit is linear in the stream: heads [layer, head] (without b_O), attn_bias [layer] (b_O),
mlps [layer], neurons [layer, neuron] (when asked for; without b_out), all grids; embed, pos_embed, final_bias (ln_final.b and the unembedding's bias), total
(the sum) and measured (from the logits; total differs where a model caps or scales its logits). Of a set: means over pairs with standard errors,
and lists of the numbers.]] },
  { name = "patchbay.lens.parts", signature = "lens.parts(run [, pos]) -> tensor [component, d_model], labels", summary = "What embeddings, attention and MLP of each layer wrote: it adds up to the stream." },
  { name = "patchbay.lens.heads", signature = "lens.heads(run [, pos]) -> tensor [layer, head, d_model]", summary = "What each head wrote, without the shared bias b_O." },
  { name = "patchbay.lens.accumulated", signature = "lens.accumulated(run [, pos]) -> tensor [component, d_model], labels",
    summary = "The stream itself, before each layer, in its middle (where there is one), and at the end." },
  { name = "patchbay.lens.direction", signature = "lens.direction(run, answer_ids, wrong_ids, pos) -> tensor [d_model], constant",
    summary = "What the last stream is multiplied with: logit difference = stream . direction + constant." },
  { name = "patchbay.lens.rollout", signature = "lens.rollout(run [, { residual = 0.5, layers = }]) -> grid [dest, src]",
    summary = "Attention rollout (Abnar and Zuidema 2020): patterns mixed with the identity and multiplied up. Not causal.",
    text = "residual: the share of the identity (the skip path) in every layer's step; the rest is the mean pattern of its heads. layers: so many, from the first." },
  { name = "patchbay.lens.flow", signature = "lens.flow(run [, { pos = -1, residual = 0.5, layers = }]) -> grid [src]",
    summary = "Attention flow (Abnar and Zuidema 2020): the largest flow from a position at the top to each token.",
    text = [[
Steps as in lens.rollout, taken as capacities: no step passes on more than attention and the skip path give it. Never less than the rollout. The time grows
with the square of layers times tokens: for prompts, not for books.]],
    example = [[pb.plot.bar { values = lens.flow(run), x = "token" }:save "flow.png"]] },
  { name = "patchbay.lens.examples", signature = "lens.examples(model, prompts, { layer =, neuron =, k = 10, batch = 32 }) -> list",
    summary = "The tokens of a dataset that excite a neuron most: { value =, prompt = (from 1), pos =, token =, run = }." },
}
