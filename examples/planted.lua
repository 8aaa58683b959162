-- A site that was planted, and one that nobody planted: causal tracing of the two built-in models, which learned the same facts. In
-- training of "facts" a mask made the last subject token the only way to a fact; "facts-free" was trained without it.
--                                                    patchbay run examples/planted.lua [n=100 samples=10 window=3]
local pb = require "patchbay"
local trace, data = require "patchbay.trace", require "patchbay.data"
local arg = pb.params { n = 100, samples = 10, window = 3, seed = 1 }

local panels = { columns = 3 }
for _, name in ipairs { "facts", "facts-free" } do
  local model = pb.load(name)
  local facts = data.facts(model, "facts", { n = arg.n, seed = arg.seed, subject_tokens = { 2, 6 }, quiet = true })
  local all = trace.average(model, facts, { samples = arg.samples, window = arg.window, seed = arg.seed })
  print(("%s, %d facts: probability of the answer %.3f clean, %.3f noised"):format(name, all.n, all.high, all.low))
  for _, kind in ipairs { "block", "mlp", "attn" } do
    local most = all[kind]:top(1)[1]
    print(("  %-5s layer %d, %s: %.2f ± %.2f comes back"):format(kind, most.layer, all[kind].labels.class[most.class + 1], most.value, most.se))
    panels[#panels + 1] = all[kind]:titled(("%s: %s"):format(name, ({ block = "block output", mlp = "MLP", attn = "attention" })[kind]))
  end
end
pb.plot.panels(panels):save "planted.png"
