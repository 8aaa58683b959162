local names = {
  { "resid_pre", "layer, pos", "The stream before each block." }, { "resid_mid", "layer, pos", "The stream between attention and MLP." },
  { "resid_post", "layer, pos", "The stream after each block." }, { "attn_out", "layer, pos", "Attention's output." }, { "mlp_out", "layer, pos", "The MLP's output." },
  { "attn_head_out_by_pos", "layer, pos, head", "Each head's output (z)." }, { "attn_head_q_by_pos", "layer, pos, head", "Each head's query." },
  { "attn_head_k_by_pos", "layer, pos, head", "Each key-value head's key." }, { "attn_head_v_by_pos", "layer, pos, head", "Each key-value head's value." },
  { "attn_head_out_all_pos", "layer, head", "Each head's output (z) at all positions." }, { "attn_head_q_all_pos", "layer, head", "Each head's queries at all positions." },
  { "attn_head_k_all_pos", "layer, head", "Each key-value head's keys at all positions." }, { "attn_head_v_all_pos", "layer, head", "Each key-value head's values at all positions." },
  { "attn_head_pattern_by_pos", "layer, head, dest", "One query's whole row of a head's pattern." },
  { "attn_head_pattern_dest_src_pos", "layer, head, dest, src", "Single entries of the patterns." }, { "attn_head_pattern_all_pos", "layer, head", "Each head's whole pattern." },
  { "neurons", "layer, neuron", "Each neuron (mlp.hook_post) at all positions." }, { "neurons_by_pos", "layer, pos, neuron", "Each neuron at each position." },
}
local list = {
  { name = "patchbay.patching", summary = "Activation patching: TransformerLens's get_act_patch_* grids, sets of components, greedy search.",
    text = [[
local patching = require "patchbay.patching"

patching.NAME(set, metric [, options]) -> grid, with the names of TransformerLens (patching.get_act_patch_NAME is the same function). set: pairs of
prompts, or { clean = run, corrupt = run, answer =, wrong = }. metric: as for set:sweep; default "logit_diff".
Options: direction "denoising" (clean values into the corrupted run, the default) or "noising"; layer, pos, head, neuron, dest, src: which coordinates
(lists; positions by name); window = w: the w layers around each together; with, memory, dry as in run:sweep.
Values are raw; grid:recovered() gives shares. Where prompts differ in length, the positions are the names that all pairs have, in order.

Habits of TransformerLens that are kept: "head out" is z, before W_O; a patched pattern row is not renormalised. Not kept: keys and values of
grouped-query models are not padded with zeros to the number of query heads (the k and v grids have key-value heads); a patch at resid_mid reaches
the skip path too (its 4.3 changes the branch of ln2 only).]],
    example = [[local grid = patching.attn_head_out_all_pos(tasks.ioi(model, { n = 20 }), "logit_diff")
for _, cell in ipairs(grid:recovered():top(5)) do print(cell.layer, cell.head, cell.value, cell.se) end]] },
}
for _, entry in ipairs(names) do
  list[#list + 1] = { name = "patchbay.patching." .. entry[1], signature = ("patching.%s(set, metric [, options]) -> grid [%s]"):format(entry[1], entry[2]), summary = entry[3],
                      text = "Options and conventions: patchbay help patching." }
end
local function stack(name, what)
  list[#list + 1] = { name = "patchbay.patching." .. name, signature = ("patching.%s(set, metric [, options]) -> list of grids"):format(name), summary = what,
                      text = "pb.plot.panels draws the list. Each grid keeps its own heads (TransformerLens pads those of keys and values with zeros)." }
end
stack("block_every", "resid_pre, attn_out and mlp_out by layer and position.")
stack("attn_head_all_pos_every", "Every head's output, query, key, value and pattern, at all positions.")
stack("attn_head_by_pos_every", "Every head's output, query, key, value and pattern rows, by position.")
list[#list + 1] = { name = "patchbay.patching.groups", signature = "patching.groups(set, metric, groups [, { direction =, memory =, dry = }]) -> grid [group]",
  summary = "Several places patched together.", text = "A group is a list of places { site =, layer =, head =, pos =, ... } with an optional name, or one place; positions may be names." }
list[#list + 1] = { name = "patchbay.patching.components", signature = "patching.components(model) -> list of places", summary = "Every head's output and every MLP, with names." }
list[#list + 1] = { name = "patchbay.patching.greedy", signature = "patching.greedy(set, metric [, { share = 0.9, candidates =, most =, direction =, memory = }]) -> list of places",
  summary = "A small set of components that restores a given share.",
  text = [[
Adds the candidate (default: patching.components) that restores most together with those chosen, until the share is reached or `most` are chosen; then
leaves out each that is not needed any more. Fields: recovered, reached, steps ({ name =, recovered = }). Greedy: a smaller set may exist. The first MLP often
restores everything by itself, since it stands for the tokens: give heads alone as candidates to see past it.]] }
return list
