-- What does the model need for a task? Take every head and MLP away by itself (its value in another prompt), then one after the other,
-- the most important first.                          patchbay run examples/knock_out.lua [task=ioi n=30 kind=resample]
local pb = require "patchbay"
local ablate, tasks, patching = require "patchbay.ablate", require "patchbay.tasks", require "patchbay.patching"
local arg = pb.params { model = "facts", task = "ioi", n = 30, kind = "resample", seed = 1 }
local model = pb.load(arg.model)
local set = tasks[arg.task](model, { n = arg.n, seed = arg.seed, template = arg.task == "ioi" and 1 or nil })
print(("%d prompts, the answer is the likeliest token in %.0f %%"):format(#set, 100 * set:accuracy()))

local rows = ablate.leave_one_out(set, { kind = arg.kind, seed = arg.seed })
print(rows)
local order = {} -- of the heads: nothing works without the first MLP, which stands for the tokens themselves
for _, row in ipairs(rows) do
  if row.head and #order < 12 then order[#order + 1] = row end
end
local curve = ablate.curve(set, { kind = arg.kind, order = order, seed = arg.seed })
pb.plot.line { { y = curve }, x = "heads taken away, one more at each step", y = "logit difference", title = "How much can be taken away?" }:save "knock_out.png"

-- The other way round: how few components bring the answer back into the corrupted prompt?
local heads = {}
for _, place in ipairs(patching.components(model)) do
  if place.head then heads[#heads + 1] = place end
end
local found = patching.greedy(set, "logit_diff", { candidates = heads, share = 0.8 })
local names = {}
for i, place in ipairs(found) do names[i] = place.name end
print(("heads %s bring back %.0f %% of the logit difference"):format(table.concat(names, ", "), 100 * found.recovered))
