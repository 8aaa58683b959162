-- The built-in model is as good as its README says, on every prompt of its task files, measured here.
local pb, check = require "patchbay", require "patchbay.check"

local model = pb.load "facts"
local tasks = model.folder .. "/tasks/"

-- The metric of every row's prompt, a part at a time: metric_of(row) -> metric.
local function measured(rows, prompt_of, metric_of, options)
  local values = {}
  for first = 1, #rows, 256 do
    local prompts, requests = {}, {}
    for i = first, math.min(first + 255, #rows) do prompts[#prompts + 1] = prompt_of(rows[i]) end
    local runs = model:runs(prompts, options)
    for i, run in ipairs(runs) do requests[i] = { run = run, metric = metric_of(rows[first + i - 1]) } end
    for _, value in ipairs(pb.measure(requests):tolist()) do values[#values + 1] = value end
    for _, run in ipairs(runs) do run:close() end
  end
  return values
end

local function share(values, good)
  local n = 0
  for _, value in ipairs(values) do n = n + (good(value) and 1 or 0) end
  return n / #values
end

local function is_first(rank) return rank == 0 end

-- The README rounds to three decimals.
local function at_least(got, stated, what)
  check.ok(got >= stated - 0.0005, ("%s: %.4f, the README says %.3f"):format(what, got, stated))
end

local function facts(file, stated, options)
  local rows = pb.read(tasks .. file)
  local ranks = measured(rows, function(row) return row.prompt end, function(row) return pb.metric.rank(row.prediction) end, options)
  at_least(share(ranks, is_first), stated, file)
end

-- Thousands of prompts: what they measure does not depend on sanitizers.
local function test(name, fn)
  check.test(name, function()
    if check.environment "UBSAN_OPTIONS" then check.skip "every prompt of every task takes too long under sanitizers" end
    fn()
  end)
end

test("facts in phrasings of the training: 0.999", function() facts("facts_all_templates.jsonl", 0.999) end)
test("facts in phrasings never seen: 0.982, and 0.991 after <|endoftext|>", function()
  facts("facts_paraphrase.jsonl", 0.982)
  facts("facts_paraphrase.jsonl", 0.991, { bos = true })
end)

local function clean(row) return row.clean end

test("indirect objects: 0.997 by logit difference and by argmax, mean difference 7.13", function()
  local rows = pb.read(tasks .. "ioi.jsonl")
  local diffs = measured(rows, clean, function(row) return pb.metric.logit_diff(row.answer, row.wrong) end)
  local ranks = measured(rows, clean, function(row) return pb.metric.rank(row.answer) end)
  at_least(share(diffs, function(diff) return diff > 0 end), 0.997, "logit difference above zero")
  at_least(share(ranks, is_first), 0.997, "argmax is the indirect object")
  local sum = 0
  for _, diff in ipairs(diffs) do sum = sum + diff end
  check.close(sum / #diffs, 7.13, 0.006, "mean logit difference")
end)

test("repeated words: 0.993", function()
  local rows = pb.read(tasks .. "induction.jsonl")
  at_least(share(measured(rows, clean, function(row) return pb.metric.rank(row.answer) end), is_first), 0.993, "induction")
end)

test("later years: P(later) - P(earlier or the same) is 0.797", function()
  local rows, years = pb.read(tasks .. "greater_than.jsonl"), {}
  for y = 0, 99 do years[y] = model:token(("%02d"):format(y)) end
  local values = measured(rows, clean, function(row)
    local later, earlier = {}, {}
    for y = 0, 99 do
      local list = y > tonumber(row.label) and later or earlier
      list[#list + 1] = years[y]
    end
    return pb.metric.prob_diff(later, earlier)
  end)
  local sum, worst = 0, math.huge
  for _, value in ipairs(values) do sum, worst = sum + value, math.min(worst, value) end
  check.close(sum / #values, 0.797, 0.0006, "mean")
  check.close(worst, 0.52, 0.006, "the worst prompt")
end)

test("agreement of verbs: every pair", function()
  local rows, forms = pb.read(tasks .. "subject_verb.jsonl"), { singular = { " is", " was", " has" }, plural = { " are", " were", " have" } }
  for k = 1, 3 do
    local values = measured(rows, clean, function(row)
      return pb.metric.logit_diff(forms[row.number][k], forms[row.number == "plural" and "singular" or "plural"][k])
    end)
    at_least(share(values, function(diff) return diff > 0 end), 1.000, "verb " .. k)
  end
end)

test("the two sentences of the README: Paris 0.972, Rome 0.990", function()
  check.close(pb.metric.prob(" Paris")(model:run "The Eiffel Tower is located in the city of"), 0.972, 0.0006)
  check.close(pb.metric.prob(" Rome")(model:run "The Roman Forum is located in the city of"), 0.990, 0.0006)
end)
