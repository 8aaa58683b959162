return {
  { name = "patch", summary = "One change at one site: a table of where and what. A list of patches is a variant.",
    text = [[
Where
  site      a name, short ("z", "resid_pre", "mlp_out") or full ("blocks.3.attn.hook_z"), or a list of names
  layer     a number, a list, or "all"; not with a full name. -1 is the last
  pos       positions; absent or "all": every one. A number or a list, -1 is the last
  head      at sites with heads (k and v have key-value heads)
  neuron    along the last axis: neurons, dimensions of the stream or of a head, tokens of the logits
  dest, src at attn_scores and pattern: which query reads which key
Coordinates count from 0. A list of layers or sites is one patch for each.

What (exactly one)
  from      the value in another run, at the same place
  value     a number, or a tensor that broadcasts to the chosen entries: [pos, (head,) neuron] or [head, dest, src]
  zero      true: 0
  mean      { run, run, ... }: the mean of these runs, position by position; { run, ..., over = "pos" } over all their positions too;
            "pos": over this run's own positions
  add       a number or tensor that is added
  scale     a number or tensor that multiplies
  noise     { std =, seed =, draw = 0, replace = false }: normal draws are added (replace: take the place). An entry's draw depends on
            seed, draw and its place in the whole site alone: the same in every variant
  fn        function(act, at): act is a copy of the chosen entries, every axis kept. Change it in place (act:mul_(0.5)) or give back a
            tensor or a number. at: site, layer, pos, head, dest, src (lists), variant; other_run[at] is that run's value at this place

Elsewhere than the same place (with from)
  from_site, from_layer, from_pos, from_head, from_dest, from_src; lists are as long as what they stand for. from_pos is needed where the
  runs differ in length.

Patches at one site apply in list order; later sites see the patched value. A patched pattern row is not renormalised.]],
    example = [[local p = corrupt:patched {
  { site = "z", layer = 2, head = 3, pos = -1, from = clean },
  { site = "blocks.3.mlp.hook_post", neuron = { 12, 77 }, value = 0 },
  { site = "attn_scores", layer = { 4, 5 }, dest = -1, src = subject, value = -math.huge },
  { site = "mlp_out", layer = 2, pos = subject, fn = function(act, at) return act + (clean[at] - act) * 0.5 end } }]] },
  { name = "pb.measure", signature = "pb.measure(list of { run =, patches =, metric = } [, { memory =, dry =, allow_unread =, first = }]) -> tensor [n]",
    summary = "Variants of several runs, of any lengths, each with its own metric, in one pass.",
    text = "All runs are of one model. Options and results as in run:measure, which is the case of one run and one metric." },
}
