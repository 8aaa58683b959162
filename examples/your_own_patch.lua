-- A patch that nobody built in: let two heads of one layer swap what they write, for every two heads, and see what it costs.
local pb = require "patchbay"
local model  = pb.load "facts"
local run    = model:run "When Mary and John went to the store, John gave a drink to"
local metric = pb.metric.logit_diff(" Mary", " John")

local variants = {}
for layer = 0, model.layers - 1 do
  for a = 0, model.heads - 1 do
    for b = 0, model.heads - 1 do
      variants[#variants + 1] = a == b and {} or -- no patch: the run as it is
        { { site = "z", layer = layer, head = { a, b }, fn = function(act, at) return act:index(1, { 1, 0 }) end } }
    end
  end
end
local values = run:measure(variants, metric):reshape(model.layers, model.heads, model.heads) -- one pass for all of them

local grid = pb.grid { values = values - metric(run), axes = { "layer", "head", "with head" }, unit = "change of logit difference" }
local worst = grid:top(1, "low")[1]
print(("swapping heads %d.%d and %d.%d costs most: %+.2f of %.2f"):format(worst.layer, worst.head, worst.layer, worst["with head"], worst.value, metric(run)))
grid:heatmap("swap.png", { title = "Two heads swap their outputs", panels = "layer", columns = 3 })
