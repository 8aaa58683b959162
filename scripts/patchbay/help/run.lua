return {
  { name = "run", summary = "One forward pass over one prompt, which remembers enough to give any site's value.",
    text = [[
model:run makes one; it never changes. #run is the number of tokens. run["blocks.9.attn.hook_z"] and run.logits are the values of
sites, new tensors without a batch axis; run[{ site = "z", layer = 9, pos = -1, head = 9 }] only the chosen entries, every axis
kept. A patch function's second argument is such a table: clean[at] is another run's value at the place that is being patched.
Fields: model, tokens, labels, text, length, patches, bytes.]],
    example = [[local z = clean["blocks.9.attn.hook_z"]   -- = clean:value("z", 9): a tensor [pos, head, d_head] ]] },
  { name = "run:value", signature = "run:value(site [, layer]) -> tensor", summary = "The value of a site.",
    text = [[
site: a full name, or a short one with the layer (negative counts from the last). Or one table { site =, layer =, pos =, head =, neuron =,
dest =, src = } for chosen entries. Shapes: [pos, width]; [pos, head, width] for attn_in, q, k, v, z, result and the like (k and v:
key-value heads); [head, dest, src] for attn_scores and pattern. Sites that a run does not keep are computed for their layer.]] },
  { name = "run:fork", signature = "run:fork(text | ids [, { length = \"same\" | \"any\", bos = }]) -> run",
    summary = "A run on another prompt, which shares what the two have in common.",
    text = [[
The common beginning is not computed again and takes no memory. The prompts must have the same number of tokens, so that a position
means the same in both: if not, the error shows both token by token and marks the first difference. length = "any" allows it; patches
between such runs then say how positions correspond, with pos and from_pos.]] },
  { name = "run:patched", signature = "run:patched(patches) -> run", summary = "The run with patches held in place.",
    text = [[
All its sites have the values of the patched computation. Patches add up: p:patched(more). See `patchbay help patch`.
A patch of a pattern or of scores that chooses masked entries only (src after dest) is an error: it would change nothing.]] },
  { name = "run:find", signature = "run:find(text [, { which = \"first\" | \"last\" | \"all\" }]) -> list of positions",
    summary = "The positions of the tokens that hold a piece of the prompt.",
    text = "Tokens that hold any part of it count. Not found: an error that lists the tokens.",
    example = [[local subject = clean:find "Eiffel Tower"]] },
  { name = "run:measure", signature = "run:measure(variants, metric [, { memory =, dry =, allow_unread =, first = }]) -> tensor [n]",
    summary = "The metric of many variants of the run, in one pass over the weights.",
    text = [[
variants: a list; each entry is a list of patches that apply together (or one patch; {} is the run as it is). All variants go
through the model together, layer by layer, each only where its patches can reach.
memory: bytes that the call may use, or a text such as "200 MB"; it is done in parts that fit. dry = true computes nothing and gives
the plan: variants, chunks, rows, full_rows, flops, full_flops, bytes. A patch that nothing measured can depend on is an error;
with allow_unread = true it gives the run's own value. Errors name the variant, counted from first (1; for a list that is a part of
a longer one). A value does not depend on the order of variants or on the parts.]],
    example = [[local values = run:measure({ { { site = "z", layer = 9, head = 9, zero = true } }, {} }, metric)]] },
  { name = "run:capture", signature = "run:capture(variants, sites [, options]) -> list of { [site] = tensor }",
    summary = "The values of sites in many variants, in one pass over the weights.",
    text = "sites: a full name or a list of them. One table per variant, with the names as given. Options as in run:measure." },
  { name = "run:sweep", signature = "run:sweep { site =, over =, metric =, from = ..., ... } -> grid",
    summary = "One patch at every point of a grid of coordinates, measured together.",
    text = [[
site: a name, or a list (then "site" is an axis too). over: the axes, in the grid's order: any of "site", "layer", "pos", "head",
"neuron", "dest", "src". What is patched in: from = another run, or one of value, zero, mean, add, scale, noise, fn, as in a patch.
The coordinates layer, pos, head, neuron, dest, src: of an axis in `over` they choose what is swept (a list; an entry that is itself a
list is patched together, { name = "subject", 1, 2, 3 } names it); of other axes they are fixed (absent: all, but a layer must be said).
window = w: at each layer l patch the w layers from l - w div 2 on, as in ROME. with: a list of patches held in every cell, and in the base.
memory and dry as in run:measure. Cells that cannot influence the metric have the base's value, as masked entries of a pattern or of
scores (src after dest) have; a sweep of masked entries alone is an error. Errors count the cells from 1, the last axis fastest.
grid.base is the run's own metric, grid.target that of `from`.]],
    example = [[local grid = corrupt:sweep { site = "resid_pre", over = { "layer", "pos" }, from = clean, metric = pb.metric.prob " Paris" }]] },
  { name = "run:top", signature = "run:top(k [, { pos = -1 }]) -> list of { token =, id =, prob =, logit = }",
    summary = "The k likeliest next tokens after a position." },
  { name = "run:side_by_side", signature = "run:side_by_side(other [, name, other_name]) -> text",
    summary = "Two prompts token by token, the first difference marked." },
  { name = "run.model", signature = "run.model -> model", summary = "The model that made the run." },
  { name = "run.tokens", signature = "run.tokens -> list of ids", summary = "The prompt's token ids." },
  { name = "run.labels", signature = "run.labels -> list of texts", summary = "The tokens as figures show them, spaces and newlines visible." },
  { name = "run.text", signature = "run.text -> text", summary = "The prompt as it was given; of a run made of ids, their text." },
  { name = "run.length", signature = "run.length -> number", summary = "Number of tokens, the same as #run." },
  { name = "run.patches", signature = "run.patches -> number", summary = "Number of patches that the run holds." },
  { name = "run.bytes", signature = "run.bytes -> number", summary = "Memory of the run; what forks share counts in each." },
}
