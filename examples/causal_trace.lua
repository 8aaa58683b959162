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

print(noised)
print(("with another subject instead of noise: probability %.3f; block %.2f, MLP %.2f, attention %.2f"):format(
  swapped.low, swapped.block:max(), swapped.mlp:max(), swapped.attn:max()))

trace.lines(noised):save "causal_trace.png"
pb.plot.panels { noised.block:titled "noise: block", noised.mlp:titled "noise: MLP", noised.attn:titled "noise: attention",
                 swapped.block:titled "another subject: block", swapped.mlp:titled "another subject: MLP", swapped.attn:titled "another subject: attention",
                 columns = 3 }:save "noise_or_subject.png"
noised.mlp:save "mlp.csv"

-- Through which modules do the states at the last subject token work?
local severed = trace.severed(model, facts, { noise = arg.noise, samples = arg.samples, seed = arg.seed })
pb.plot.bar { values = severed, x = "restored block", title = "Last subject token, modules above it severed" }:save "severed.png"
