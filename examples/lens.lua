-- When does the stream say the answer, and who wrote it? Logit lens layer by layer, then direct attribution to heads and MLPs. Both look
-- at what is written; the last lines ask whether it matters, by taking the head away.
local pb = require "patchbay"
local lens = require "patchbay.lens"
local arg = pb.params { model = "facts", prompt = "The Eiffel Tower is located in the city of", answer = " Paris", wrong = " Rome" }
local model = pb.load(arg.model)
local run = model:run(arg.prompt)

for layer, top in ipairs(lens.top(run, { k = 3 })) do
  local words = {}
  for i, token in ipairs(top) do words[i] = ("%s %.2f"):format(token.token, token.prob) end
  print(("%s: %s"):format(layer <= model.layers and "before layer " .. layer - 1 or "at the end", table.concat(words, "  ")))
end
lens.grid(run, { answer = arg.answer, metric = "log_prob" }):heatmap("lens.png", { title = "What the stream says of" .. arg.answer, colours = "sequential" })

local parts = lens.attribution(run, { answer = arg.answer, wrong = arg.wrong })
print(("\nlogit difference %.3f; the parts add up to %.3f"):format(parts.measured, parts.total))
for _, cell in ipairs(parts.heads:top(3, "abs")) do print(("  head %d.%d wrote %+.3f"):format(cell.layer, cell.head, cell.value)) end
for _, cell in ipairs(parts.mlps:top(2, "abs")) do print(("  MLP %d wrote %+.3f"):format(cell.layer, cell.value)) end

local best = parts.heads:top(1)[1]
local metric = pb.metric.logit_diff(arg.answer, arg.wrong)
local without = run:measure({ { { site = "z", layer = best.layer, head = best.head, pos = -1, zero = true } } }, metric):item()
print(("without head %d.%d at the end the difference is %.3f: later parts make up for %+.3f of what it wrote"):format(
  best.layer, best.head, without, without - (parts.measured - best.value)))
