local OPTIONS = [[
set: pairs; their clean prompts are changed. Options: site (default "z"), over (axes: layer, pos, head, neuron; default layer and head, or layer),
layer, pos, head, neuron (which coordinates; positions by name), metric (default "logit_diff"), memory, dry. Raw values; grid:change() gives drops.]]
return {
  { name = "patchbay.ablate", summary = "Ablation: take components away and see what the clean prompt loses.",
    text = [[
local ablate = require "patchbay.ablate"

What stands in a component's place: zero; the mean over a data set; or its value in another prompt. Heads are taken away at z, so the output bias stays;
with raw weights the value bias goes with z. EAP-IG's "mean" averages over nodes instead of prompts: not copied.]],
    example = [[print(ablate.leave_one_out(tasks.ioi(model, { n = 30 }), { kind = "resample" }))]] },
  { name = "patchbay.ablate.zero", signature = "ablate.zero(set [, options]) -> grid", summary = "Each component set to zero.", text = OPTIONS },
  { name = "patchbay.ablate.mean", signature = "ablate.mean(set [, options]) -> grid", summary = "Each component set to its mean over a data set.",
    text = OPTIONS .. [[

data: prompts (texts, ids, runs, facts) or another set; default the set's own clean prompts. positions: "each" (the mean at each position; all of one
length), "all" (one vector: over positions too), "auto" (each where the lengths agree).]] },
  { name = "patchbay.ablate.resample", signature = "ablate.resample(set [, options]) -> grid", summary = "Each component set to its value in other prompts of the same length.",
    text = OPTIONS .. "\n\ndata: where prompts are drawn from (default: the other clean prompts of the set); draws: how many for each pair, whose mean is the value; seed." },
  { name = "patchbay.ablate.means", signature = "ablate.means(model, data, site [, { positions = \"each\", batch = 64 }]) -> list by layer of tensors",
    summary = "Means of a site over a data set, in one pass that keeps only the sums.",
    text = "Entry i is layer i - 1: [pos, ...] with \"each\", [1, ...] with \"all\". A site outside the layers has one entry." },
  { name = "patchbay.ablate.groups", signature = "ablate.groups(set, groups [, { kind = \"mean\", ... }]) -> grid [group]", summary = "Several components taken away together.",
    text = "kind: \"zero\", \"mean\", \"resample\". A group is a list of places { site =, layer =, head =, pos = } with an optional name. Options as above." },
  { name = "patchbay.ablate.leave_one_out", signature = "ablate.leave_one_out(set [, { kind =, components =, ... }]) -> rows",
    summary = "Every component taken away by itself, the largest change first; prints as a table.",
    text = "Rows: name, site, layer, head, value, change, se. components: places with names; default every head and MLP." },
  { name = "patchbay.ablate.curve", signature = "ablate.curve(set [, { order =, kind =, ... }]) -> grid [group]",
    summary = "Knock-out curve: nothing, then one component more at each step.", text = "order: places with names; default leave_one_out's rows." },
}
