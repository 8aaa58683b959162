-- Which heads choose the name, by one gradient instead of a patch for each? The estimate for every head at every position comes
-- from two forward passes and one backward pass; then some of its cells are patched exactly, to see how far it may be trusted.
local pb = require "patchbay"
local attribution, tasks = require "patchbay.attribution", require "patchbay.tasks"
local arg = pb.params { model = "facts", pairs = 20, cells = 40, seed = 1 }
local model = pb.load(arg.model)
local set = tasks.ioi(model, { n = arg.pairs, seed = arg.seed })

local heads = attribution.patching(set, { site = "z", over = { "layer", "head" } })
local exact = set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff" }:change()
for _, cell in ipairs(exact:top(5, "abs")) do
  print(("head %d.%d: exact %+.3f, estimated %+.3f"):format(cell.layer, cell.head, cell.value, heads:get { layer = cell.layer, head = cell.head }))
end
pb.plot.panels { exact:titled "patching (exact)", heads:titled "estimated (one gradient)", title = "Heads that choose the name" }:save "heads.png"

-- Queries, where attention may be saturated: with the softmax exact, and without.
for _, fixed in ipairs { false, true } do
  local queries = attribution.patching(set, { site = "q", over = { "layer", "pos", "head" }, qk_fix = fixed })
  local report = attribution.audit(set, queries, { cells = arg.cells, seed = arg.seed })
  print(("\nqueries, %s:"):format(fixed and "softmax exact (AtP*)" or "softmax linear (AtP)"))
  print(report)
  report:figure { title = "Queries, softmax " .. (fixed and "exact" or "linear") }:save(fixed and "queries_fixed.png" or "queries.png")
end

-- Which words does the answer hang on? The sums of integrated gradients are the whole change of the metric.
local one = set:filter(function(_, i) return i == 1 end)
local words, check = attribution.integrated(one, { over = "pos", steps = 32 })
for _, cell in ipairs(words:top(3, "abs")) do print(("\n%s at %d: %+.3f"):format(cell.token, cell.pos, cell.value)) end
print(("all words %+.3f, the metric's change %+.3f"):format(check[1].sum, check[1].difference))
