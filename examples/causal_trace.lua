-- Which layers know a fact? Causal tracing as in the ROME paper: noise on the subject, one clean state restored at a time, averaged over
-- facts. Beside it the same with another subject instead of noise, which keeps the prompt natural.
--                                                    patchbay run examples/causal_trace.lua [n=30 samples=5 window=3 noise=s3]
local pb = require "patchbay"
local trace, data = require "patchbay.trace", require "patchbay.data"
local arg = pb.params { model = "facts", facts = "facts", n = 30, samples = 5, window = 3, noise = "s3", seed = 1 }
local model = pb.load(arg.model)
local facts = data.facts(model, arg.facts, { n = arg.n, seed = arg.seed, subject_tokens = { 2, 9 } })

local noised = trace.average(model, facts, { noise = arg.noise, samples = arg.samples, window = arg.window, seed = arg.seed })
local swapped = trace.average(model, facts:pairs { seed = arg.seed }, { window = arg.window })

print(("probability of the answer: %.3f clean, %.3f with noise, %.3f with another subject"):format(noised.high, noised.low, swapped.low))
print(("average total effect of the noise: %.3f ± %.3f"):format(noised.ate, noised.ate_se))
for _, kind in ipairs { "block", "mlp", "attn" } do
  local best = noised[kind]:top(1)[1]
  print(("%-5s carries most in layer %d, %s: %.3f ± %.3f of probability"):format(kind, best.layer, noised[kind].labels.class[best.class + 1], best.value, best.se))
end

trace.lines(noised):save "causal_trace.png"
pb.plot.panels { noised.block:titled "noise: block", noised.mlp:titled "noise: MLP", noised.attn:titled "noise: attention",
                 swapped.block:titled "another subject: block", swapped.mlp:titled "another subject: MLP", swapped.attn:titled "another subject: attention",
                 columns = 3 }:save "noise_or_subject.png"
noised.mlp:save "mlp.csv"
