-- Is it causal, or only correlated? Five methods look at one behaviour, facts about a subject, and are drawn side by side: a probe and attention
-- see what is there, a gradient what a small change would do, ablation what is needed, patching what carries the answer.
--                                                                         patchbay run examples/compare.lua [n=60 task=facts]
local pb = require "patchbay"
local patching, ablate, attribution = require "patchbay.patching", require "patchbay.ablate", require "patchbay.attribution"
local probe, data = require "patchbay.probe", require "patchbay.data"
local arg = pb.params { model = "facts", facts = "facts", n = 60, seed = 1 }
local model = pb.load(arg.model)
local set = data.facts(model, arg.facts, { n = arg.n, seed = arg.seed, quiet = true }):pairs { seed = arg.seed, quiet = true }

local exact    = patching.resid_pre(set, "logit_diff"):recovered()
local gradient = attribution.patching(set, { site = "resid_pre", metric = "logit_diff" }):recovered()
local without  = ablate.mean(set, { site = "mlp_out", metric = "logit_diff" }):change()
local read     = probe.linear(set, { site = "resid_pre", label = "answer", seed = arg.seed })
local looks    = pb.stats.attention(set, { dest = "end" })

print "layer  position      patching  gradient  probe  attention from the end"
for _, pos in ipairs { "subject_last", "end" } do
  for layer = 0, model.layers - 1 do
    local at = { layer = layer, pos = pos }
    print(("%5d  %-12s  %8.2f  %8.2f  %5.2f  %9.2f"):format(layer, pos, (exact:get(at)), (gradient:get(at)), (read:get(at)), (looks:get { layer = layer, src = pos })))
  end
end
for _, cell in ipairs(without:top(2, "low")) do print(("MLP %d at its mean: the logit difference changes by %+.2f ± %.2f"):format(cell.layer, cell.value, cell.se)) end
print(("over all cells, rank correlation with patching: gradient %.2f, probe %.2f"):format(
  pb.stats.correlation(exact, gradient), pb.stats.correlation(exact, read)))
pb.plot.panels { exact:titled "patching (causal, exact)", gradient:titled "attribution (gradient)", read:titled "probe (not causal)",
                 looks:titled "attention of the end", without:titled "an MLP at its mean", title = "Five methods, one behaviour", columns = 3 }:save "compare.png"
