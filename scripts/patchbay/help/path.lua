return {
  { name = "patchbay.path", summary = "Path patching: what a sender tells a receiver by no other way (Wang et al. 2022, appendix B).",
    text = [[
local path = require "patchbay.path"

A node is { site =, layer =, head =, neuron =, pos = }; a list of nodes is one node with all of them ({ name = "pair", { layer = 0, head = 1 },
{ site = "mlp", layer = 0 } }). heads = cells, as grid:top gives them, stands for several heads at one site; they are heads of queries, and mean
the key-value head that they share at k and v.
Senders: a head ({ layer =, head = }: its z), "attn" (attn_out), "mlp" (mlp_out), "neuron" (mlp_post), embed, pos_embed, q, k, v, any site with
positions. Receivers: q, k, v, "pattern" (q and k), "head" (q, k and v), "mlp" (mlp_in), "neuron" (mlp_pre), resid_pre ..., or "logits".

The method, for every sender:
1. The run with all heads held at its own values (attn_out; in the sender's layer, z of the other heads) and the sender at its value in the
   other prompt. With mlps = "frozen" the MLPs are held too, so that only the direct edge is left. What arrives at the receivers is noted.
2. The run with the receivers at these values and everything else free; the metric is measured.
For the logits as receiver, step 1 is measured.

Where peers differ. callummcdougall/path_patching (golden/techniques/path): with mlps frozen and a "pre" receiver it freezes every hook whose name
ends in "post", hook_resid_post too, so that nothing gets past a layer; here only MLPs are held. TransformerLens's direct path patching up to 4.0
is norms = "frozen" on folded weights, from 4.3 on mlps = "frozen" alone; entries without a path are 0.0 there and the run's own metric here.]],
    example = [[
local path, tasks = require "patchbay.path", require "patchbay.tasks"
local set    = tasks.ioi(model, { n = 20, seed = 1 })
local direct = path.sweep(set, { senders = "heads", receiver = "logits" })
local into_q = path.sweep(set, { senders = "heads", receiver = { site = "q", heads = direct:recovered():top(3, "abs") }, pos = "end" })]] },
  { name = "patchbay.path.sweep",
    signature = "path.sweep(set, { senders =, receiver = | receivers =, via =, pos =, mlps =, norms =, metric =, direction =, new =, memory = }) -> grid",
    summary = "The effect of each sender on each receiver, over pairs: mean, standard error, parts.",
    text = [[
senders: "heads" (grid [layer, head]), "attns", "mlps" ([layer]), "neurons", "components" (embeddings, heads and MLPs in
one list), a sweep { site = "z", over = { "pos", "layer", "head" } }, or a list of nodes
(grid [sender]). receiver: one node; receivers: as senders, more axes of the grid (receiver_layer, ... where there are several senders).
via: a list of nodes that the path goes through, in order. pos: positions of senders and receivers, numbers or names of the pairs' positions;
a node's own pos goes before. mlps: "live" (the paper's; default) or "frozen". norms: "live", or "frozen": norms keep the run's scale while the
receivers' values are noted, edges are linear and add up. direction: "denoising" (default: the corrupted run, with clean values; recovered()
is the share that the path brings back) or "noising" (the paper's: the clean run, with corrupted values). new = "zero": senders become 0.
All senders of a pair are in one pass over the weights, all measurements in a second.
Errors: no sender comes before a receiver; a node without a layer; a position that a pair does not have.]] },
  { name = "patchbay.path.chain", signature = "path.chain(set, { first, ..., last } [, options]) -> grid [sender]",
    summary = "The effect of one path through all nodes of a list, in their order; options as in path.sweep.",
    example = [[path.chain(set, { { layer = 1, head = 2 }, { site = "k", layer = 2, head = 1 }, "logits" }, { mlps = "frozen" })]] },
}
