-- Can a probe read it, and does the model use it? The number of the subject ("The keys to the cabinet" are) is read off the stream by a
-- linear probe at every layer; then the direction that the probe found is taken away. What can be read need not be used.
local pb = require "patchbay"
local probe, tasks = require "patchbay.probe", require "patchbay.tasks"
local arg = pb.params { model = "facts", n = 80, seed = 1 }
local model = pb.load(arg.model)
local set = tasks.agreement(model, { n = arg.n, seed = arg.seed })
local singular = { [model:token " is"] = true, [model:token " was"] = true }
local function number(pair, _, side) return singular[(side == "clean" and pair.answer or pair.wrong)[1]] and "one" or "many" end

local options = { label = number, side = "both", pos = { "subject", "end" } }
local at = probe.selectivity(set, options)
local causal = probe.causal(set, { label = number, side = "both", pos = "subject" })
local cost = causal.effect:change()
print(("chance %.2f; %d prompts"):format(at.report.chance, at.report.examples))
print "layer  read at the subject  at the end | cost of taking the direction away at the subject  (a random one)"
for layer = 0, model.layers - 1 do
  print(("%5d  %19.2f  %10.2f | %+48.3f  %+14.3f"):format(layer, (at.accuracy:get { layer = layer, pos = "subject" }), (at.accuracy:get { layer = layer, pos = "end" }),
    (cost:get { direction = "probe", layer = layer }), (cost:get { direction = "random", layer = layer })))
end
pb.plot.panels { at.accuracy:titled "probe accuracy (not causal)", cost:titled "direction taken away (causal)" }:save "probe.png"
