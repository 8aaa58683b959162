-- The built-in model without a planted site: what its README promises, measured again.
local pb, check = require "patchbay", require "patchbay.check"
local model = pb.load "facts-free"

local function task(name) return pb.read(("%s/tasks/%s.jsonl"):format(pb.load("facts").folder, name)) end

-- The metric of every prompt, some at a time.
local function measured(list, field, metric_of)
  local values = {}
  for first = 1, #list, 128 do
    local prompts, requests = {}, {}
    for i = first, math.min(first + 127, #list) do prompts[#prompts + 1] = list[i][field] end
    for i, run in ipairs(model:runs(prompts)) do requests[i] = { run = run, metric = metric_of(list[first + i - 1]) } end
    for _, value in ipairs(pb.measure(requests):tolist()) do values[#values + 1] = value end
  end
  return pb.tensor(values)
end

check.test("facts-free: the four heads of layer 1 are induction heads", function()
  local scores = require "patchbay.heads".scores(model, { n = 20, seed = 4, bos = true, offsets = 2 })
  for _, cell in ipairs(scores.offset[1]:top(4)) do
    check.ok(cell.layer == 1 and cell.value > 0.75, ("%d.%d: %.2f"):format(cell.layer, cell.head, cell.value))
  end
  for _, k in ipairs { 0, 2 } do check.ok(scores.offset[k].values:max() < 0.15, "offset " .. k) end
  local previous = scores.previous:top(1)[1]
  check.ok(previous.layer == 0 and previous.head == 1 and previous.value > 0.9)
end)

check.test("facts-free: greater-than at 0.9", function()
  local years = {}
  for y = 0, 99 do years[y] = model:token(("%02d"):format(y)) end
  local values = measured(task "greater_than", "clean", function(row)
    local later, rest = {}, {}
    for y = 0, 99 do table.insert(y > tonumber(row.label) and later or rest, years[y]) end
    return pb.metric.prob_diff(later, rest)
  end)
  check.ok(values:mean() >= 0.9, ("%.4f"):format(values:mean()))
  check.ok(values:min() > 0.8, ("%.4f"):format(values:min()))
end)

check.test("facts-free: every third held-out fact, every indirect object", function()
  local held_out, some = task "facts_paraphrase", {}
  for i = 1, #held_out, 3 do some[#some + 1] = held_out[i] end
  local ranks = measured(some, "prompt", function(row) return pb.metric.rank(row.prediction) end)
  check.ok(ranks:eq(0):mean() > 0.98, ("%.4f"):format(ranks:eq(0):mean()))
  local gaps = measured(task "ioi", "clean", function(row) return pb.metric.logit_diff(row.answer, row.wrong) end)
  check.ok(gaps:gt(0):mean() > 0.99)
end)

check.test("example planted: the last subject token in facts, the last token from layer 1 on in facts-free", function()
  local out = check.output_folder() .. "/planted"
  local result = check.recipe { file = "examples/planted.lua", output = out, params = { "n=6", "samples=2" }, gc_stress = false }
  check.ok(result.ok, result.message)
  for _, part in ipairs { "facts, 6 facts", "mlp   layer [01], last subject token: 0%.[3-7]", "facts%-free, 6 facts", "attn  layer [012], last token: 0%.[5-9]" } do
    check.ok(result.printed:find(part), part .. " is not in\n" .. result.printed)
  end
end)
