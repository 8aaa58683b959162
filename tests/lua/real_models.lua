-- Real trained models beside the project: greedy continuations and logits that others published or computed in float64.
local pb, check = require "patchbay", require "patchbay.check"

local shared = (check.environment "PB_SHARED" or "../shared") .. "/models/"
local function expected(name)
  local ok, data = pcall(pb.read, shared .. name)
  if not ok then check.skip("no " .. shared .. name) end
  return data
end

local function greedy(model, prompt, n)
  local text, ids = model:generate { prompt, tokens = n, ids = true }
  return ids, text
end

local function same_ids(got, want, what)
  check.eq(table.concat(got, " "), table.concat(want, " "), what)
end

local function largest_difference(logits, want)
  return (logits - pb.tensor(want)):abs():max() / pb.tensor(want):abs():max()
end

check.test("stories260K: sixty greedy tokens, their text, and the last logits", function()
  local want = expected "stories260K/greedy_expected.json"
  local model = pb.load(shared .. "stories260K")
  local prompt, continuation = want.prompt_ids, {}
  for i = #prompt + 1, #want.greedy_ids do continuation[#continuation + 1] = want.greedy_ids[i] end
  local ids, text = greedy(model, prompt, #continuation)
  same_ids(ids, continuation, "greedy ids")
  check.eq((text:gsub("^%s+", "")), want.text)
  local logits = expected "stories260K/logits_expected_f64.json"
  check.ok(largest_difference(model:run(logits.ids):value "logits":select(0, -1), logits.last_logits) < 2e-5)
end)

check.test("capp-gpt2: greedy ids and first logits of four prompts", function()
  local cases = expected "capp-gpt2/expected_numpy_f64.json"
  local model = pb.load(shared .. "capp-gpt2")
  for i, case in ipairs(cases) do
    local ids = greedy(model, case.prompt_ids, #case.greedy_ids)
    same_ids(ids, case.greedy_ids, "prompt " .. i)
    check.ok(largest_difference(model:run(case.prompt_ids):value "logits":select(0, -1), case.first_logits_f64) < 2e-5)
  end
end)

check.test("tiny-random-gpt2: the published greedy ids", function()
  local want = expected "tiny-random-gpt2/expected_greedy.json"
  local model = pb.load(shared .. "tiny-random-gpt2")
  for _, case in ipairs(want.cases) do same_ids(greedy(model, case.prompt, #case.greedy), case.greedy, "greedy ids") end
end)
