return {
  { name = "grads", summary = "Gradients of one metric by the values at all sites of a run: what run:grad gives.",
    text = [[
grads["blocks.3.hook_resid_pre"] is d metric / d (what later sites read there), a tensor of the site's shape, all positions. Indexed as a run
is; grads[{ site = "z", layer = 9, pos = -1 }] picks entries. A site that was not asked for is computed when it is first read, one more pass.

The gradient is the total derivative: that of hook_resid_mid includes the skip path. In a patched run it is by the patched value, so that
at a patched place it is the gradient of what was put there, or of the tensor of an `add`; nothing is passed on to what came before a
replaced entry. Every entry of a pattern has a gradient, masked ones too; rows are not renormalised.

grads.zero["blocks.0.hook_resid_pre"] is true where the gradient is exactly zero everywhere: the metric cannot be reached from that site
(what lies between was replaced, or only later positions have it), or it is flat there. That is no error.
Fields: run, metric, measured (the metric's value), sites (names of those computed), weights (gradients of weights by name, if they were
asked for), stop (names of the sites where it ends), zero.]],
    example = [[
local grads = corrupt:grad(metric)
local change = clean["blocks.3.hook_resid_pre"] - corrupt["blocks.3.hook_resid_pre"]
print((change * grads["blocks.3.hook_resid_pre"]):sum(1))   -- attribution patching by position]] },
  { name = "grads:value", signature = "grads:value(site [, layer]) -> tensor", summary = "The gradient at a site, a new tensor.",
    text = "As run:value: a full name, a short one with the layer, or a table { site =, layer =, pos =, head =, neuron =, dest =, src = }, every axis kept." },
  { name = "run:grad", signature = "run:grad(metric [, sites [, { weights =, memory =, weight = 1, stop = }]]) -> grads",
    summary = "Gradients of a metric by every site, and by weights, in one reverse pass.",
    text = [[
metric: any but rank and fn. sites: names, full or short (a short one means all layers), or { site =, layer = }, in a list; absent: all that have
one row for each position (not those with a copy of the stream for each head or of single experts, attn_scores, pattern and logits, which
come when they are first read). An empty list: none.
weights: true, or a list of names as model:weights gives: grads.weights[name] is a tensor of the stored shape. A tied matrix has the sum of
both parts, under the embedding's name and, where the unembedding is stored as well, the same under that one's: it is one matrix, not to be
counted twice. memory: for the work, as in run:measure. weight: the gradient is that of weight * metric.
stop: sites, as in sites, through which the gradient does not flow back: their value counts as a constant. The gradient at a stop itself is
noted as ever. { "ln1.hook_scale", "ln2.hook_scale", "ln_final.hook_scale" } is the model with frozen norms; { { site = "attn_out", layer = 3 },
{ site = "mlp_out", layer = 3 } } drops what passes through layer 3 (GradDrop).
Time: about three forward passes. A layer's inner values are computed again from its boundary, so memory is one layer and what is asked for.
Errors: a metric without a derivative; a run with a patch that is a function; weights of a model that was loaded with weight processing.]],
    example = [[
local loss = model:run(text):grad(pb.metric.nll(), {}, { weights = true })
print(loss.measured, loss.weights["transformer.wte.weight"]:norm())]] },
  { name = "pb.grad", signature = "pb.grad(list of { run =, patches =, metric =, sites =, stop =, weight = } [, { weights =, memory = }]) -> list of grads, weights",
    summary = "Several runs or metrics at once, of any lengths, in one pass over the weights.",
    text = [[
All runs are of one model. patches: a variant, as run:patched takes it. The second result, with weights = true or a list of names, is a table of
the weights' gradients by name, summed over all entries (each times its weight).]],
    example = [[
local list, weights = pb.grad({ { run = clean, metric = metric, sites = { "z", { site = "mlp_out", layer = 3 } } },
                                { run = corrupt, metric = pb.metric.nll(), sites = {}, weight = 0.5 } }, { weights = { "transformer.wte.weight" } })]] },
}
