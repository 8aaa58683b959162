local FACT = [[
A fact is { prompt =, subject =, answer = }: prompt a text (with "{}" for the subject, if you like) or token ids, subject a piece of it or a list of
positions, answer a token (absent: what the model says). Facts of data.facts are such tables.]]

local OPTIONS = [[
Options
  kinds     what is restored, one state at a time: { "block", "mlp", "attn" }. block is one block's output; mlp and attn are the outputs of the
            layers of a window, restored together at one position
  window    layers l - window div 2 to l + ceil(window / 2) - 1, cut off at the ends; default 10, as in the paper, or all layers of a smaller
            model. Wider than the model is an error unless wide = true
  noise     "s3" (the default): 3 standard deviations (n - 1, over all elements, repeated tokens counted) of the embeddings of the data set's
            subjects; without a data set, of this subject. A number: that standard deviation. "m": a Gaussian with the embeddings' mean and
            covariance. "t3": Student's t, 3 degrees of freedom, with their covariance. "u0.1": uniform in ±0.1. A tensor [samples, tokens,
            d_model], a list of tensors, or a function(tokens, draw) that gives a tensor [tokens, d_model] (draw from 0; called for the facts
            in their order): the noise itself
  subjects  a list of texts or token ids that the noise is measured on, instead
  samples   corrupted runs; default 10. Draw j of a seed is the same in every cell and for every prompt with as many subject tokens
  replace   true: the noise takes the embedding's place (default: it is added)
  corrupt   another prompt of the same length instead of noise (recommended: Zhang and Nanda 2024), or true: the fact's own field corrupt
  sever     "mlp" or "attn": while a state is restored, these outputs above it at the same position keep their corrupted values
  unknown   what to do with a fact that the model does not know: "error" (default), "trace", "skip" (trace.average counts them)
  seed, bos, memory
Noise goes on hook_embed: the token embedding as the model uses it (scaled where it scales), before positions are added.]]

return {
  { name = "patchbay.trace", summary = "Causal tracing: where does a model keep a fact? (Meng et al. 2022)",
    text = [[
local trace = require "patchbay.trace"

The subject's embeddings are corrupted in several runs; then single states are restored to their clean values, and the answer's probability says
how much each state carries. The scripts are patchbay/rome.lua (one fact), trace.lua (means), noise.lua, enrichment.lua, divergence.lua.

Differences to the authors' code (kmeng01/rome), on purpose: the value without restoration is computed with replace when tracing with it (they leave
it out there); "m" draws with the square root of the covariance (they multiply by the covariance's singular values themselves); a chi-square draw
of "t" is fresh for each token and sample and does not scale the mean; in averages every fact counts once (their notebook pools tokens: each = "token"), a subject
of one token is its last token only (there it is first and last), and the prompt's last token is only that.
What noise shows depends on its size, and it moves the model off its distribution: compare with corrupt = another prompt.]],
    example = [[local one = trace.rome(model, facts[1], { window = 3 })
pb.plot.panels { one.block, one.mlp, one.attn, mark = one.positions }:save "fact.png"]] },
  { name = "patchbay.trace.rome", signature = "trace.rome(model, fact [, options]) -> { block =, mlp =, attn =, low =, high =, ... }",
    summary = "Every state of one fact restored in turn: grids [layer, pos] of the answer's probability.",
    text = FACT .. "\n" .. OPTIONS .. [[

The result: a grid for each kind, low (nothing restored; also grid.base), high (clean; grid.target), answer (id), scale (the standard deviation
that was used), positions (of the subject), clean (the run).]] },
  { name = "patchbay.trace.average", signature = "trace.average(model, facts | set [, options]) -> { block =, mlp =, attn =, ate =, ... }",
    summary = "Mean indirect effects over facts, by layer and class of token, with standard errors.",
    text = [[
Options as trace.rome, and each: "fact" (default: every fact counts once, with the mean of its tokens of a class) or "token" (tokens are pooled, as
in ROME's notebook). Grids [layer, class] of the average indirect effect, P(restored) - P(corrupted); grid.se is the standard error over facts
(1.96 of it is the 95 % interval). Classes: first, middle and last subject token, first token after, further tokens, last token.
ate, ate_se: the average total effect; low, high, n, skipped, counts (facts that have each class), scale, facts ({ low, high, fact }).
It prints as a table. A set of pairs with a position "subject" is corrupted by each pair's other prompt.]],
    example = [[print(trace.average(model, data.facts(model, "facts", { n = 50 }), { window = 3 }))]] },
  { name = "patchbay.trace.severed", signature = "trace.severed(model, facts | set [, options]) -> grid [severed, layer]",
    summary = "The effect of restored blocks at the last subject token while MLPs, or attention, above them stay corrupted.",
    text = [[
Figure 3 of the paper. Options as trace.average, without kinds and sever. What is lost against the row "nothing" passes through these modules.]],
    example = [[pb.plot.bar { values = trace.severed(model, facts, { samples = 5 }), x = "restored block" }:save "severed.png"]] },
  { name = "patchbay.trace.lines", signature = "trace.lines(average [, settings]) -> figure", summary = "The averages by layer, a line with its 95 % interval for each class of token." },
  { name = "patchbay.trace.states", signature = "trace.states(model, fact, cells [, options]) -> tensor [cells], low, high",
    summary = "Any states restored together, any held at their corrupted values (ROME's trace_with_repatch).",
    text = [[
A cell is { restore = places, hold = places }; a place is { site = "resid_post", layer =, pos = }. Held places keep the value of the corrupted pass
before anything was restored; restored and held in one cell: the later patch at a site wins.]],
    example = [[trace.states(model, fact, { { restore = { { layer = 0, pos = 5 } }, hold = { { site = "mlp_out", layer = { 1, 2 }, pos = 5 } } } })]] },
  { name = "patchbay.trace.classes", signature = "trace.classes(subject positions, length) -> list", summary = "The class (1 to 6; 0 before the subject) of each token of a prompt." },
  { name = "patchbay.trace.sigma", signature = "trace.sigma(model, subjects) -> number", summary = "Standard deviation over all elements of the embeddings of lists of token ids.",
    text = "With n - 1, repeated tokens counted, as the model really uses the embeddings." },
  { name = "patchbay.trace.knockout", signature = "trace.knockout(model, facts [, { window = 3, memory = }]) -> grid [blocked, layer]",
    summary = "Attention knock-out over windows of layers (Geva et al. 2023).",
    text = [[
The answer's probability while scores are -inf in the layers of a window: the last position may not read the subject; tokens of the subject may not
read earlier ones of it; the last position may not read the rest. facts: of data.facts, or { prompt =, subject =, answer = }. window: a layer's own and as
many around it; wider than the model is an error. grid.base: nothing blocked.]] },
  { name = "patchbay.trace.states_say", signature = "trace.states_say(model, facts [, { memory = }]) -> { rank =, prob = }",
    summary = "What the states after each layer say about the answer, at the last subject token and at the end.",
    text = "Grids [place, layer] of the answer's rank and probability, by the model's own final norm and unembedding (logit lens)." },
  { name = "patchbay.trace.says", signature = "trace.says(run, pos [, k = 5]) -> list by layer of lists of tokens", summary = "The likeliest tokens of a position's state after each layer (logit lens)." },
  { name = "patchbay.trace.divergence", signature = "trace.divergence(run, { answer =, right =, pos = -1 }) -> steps",
    summary = "Where a wrong answer is lost: the step at which the right token's rank goes, and the component that does it.",
    text = [[
Follows the right token through the stream at one position (logit lens). With right, a run that answers rightly (of any length): the first step from
which on the token is first there and not here; the component is the head or MLP of that step whose value from the right run raises the logit
difference (right less predicted token) most. With an answer alone: the step that loses the token's best rank for good; components are taken away
(zero) instead. Fields: lost (a step or nil), culprit, strongest (of all layers), effects (every component's change); prints as a table.
The lens reads early states only roughly: look at the whole table.]],
    example = [[print(trace.divergence(wrong, { right = clean }))]] },
}
