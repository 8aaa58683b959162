local fields = [[
label: "answer" (of the corrupted prompt: the wrong answer), a field of the pairs' info ("relation"), or function(pair, i, side) -> anything.
side: which prompts are examples: "clean", "corrupt" or "both". Prompts whose label no other has are left out; report.left_out counts them.
site, layer, pos: as in sweeps; pos defaults to every position where prompts have one length, else to the names that all pairs have (the mean
over a name's tokens). folds: cross-validation; every class is dealt evenly. ridge: the penalty, for examples scaled to mean length 1.
control = true: the labels are those of the control task. seed: of folds and control labels.
The report: examples, classes, left_out, chance (the share of the largest class).]]

return {
  { name = "patchbay.probe", summary = "Linear and logistic probes with cross-validation, control tasks, and the causal check.",
    text = [[
local probe = require "patchbay.probe"

A probe shows that a label can be read off an activation, not that the model reads it. probe.selectivity says how much a probe of this kind
learns by heart (control tasks, Hewitt and Liang 2019); probe.causal takes the probe's directions away and measures the prediction.]] },
  { name = "patchbay.probe.linear", signature = "probe.linear(set [, { site = \"resid_pre\", label = \"answer\", layer =, pos =, side = \"clean\", folds = 5, ridge = 0.01, ... }]) -> grid, report",
    summary = "Accuracy of ridge regression on one-hot labels: grid [layer, pos].", text = fields },
  { name = "patchbay.probe.logistic", signature = "probe.logistic(set [, options]) -> grid, report",
    summary = "Accuracy of multinomial logistic regression; options as in probe.linear." },
  { name = "patchbay.probe.selectivity", signature = "probe.selectivity(set [, { method = \"linear\", ... }]) -> { accuracy =, control =, selectivity =, report = }",
    summary = "Accuracy, accuracy on a control task, and their difference: grids [layer, pos].",
    text = [[
The control task gives every kind of token (or tokens, of a named position) at the position a label by lot, in the proportions of the real
ones. Where all prompts have the same token there is one label and the control task is trivial: selectivity says nothing there.]] },
  { name = "patchbay.probe.causal", signature = "probe.causal(set [, { pos = \"end\", metric = \"logit_diff\", method = \"linear\", directions =, train = 0.5, ... }]) -> table",
    summary = "Does the model use what the probe reads? Its directions are set to their mean, and the metric is measured.",
    text = [[
Probes are trained on the first part of the pairs (train), the effect is measured on the clean prompts of the others. effect: grid [direction,
layer] with direction "probe" and "random" (as many random directions: what taking anything away costs); effect:change() is the cost. directions: how
many at most (default: classes - 1). accuracy: grid [layer, pos] of the probes, cross-validated on all pairs. rank: how many directions went.]] },
  { name = "patchbay.probe.fit", signature = "probe.fit(x [n, d], labels [, classes, method, ridge]) -> { W =, b =, mean =, scores = function(x) }",
    summary = "One classifier: labels from 1; scores(x) is [n, classes].", text = "method: \"linear\" (default) or \"logistic\". W [d, classes], b [classes]." },
}
