-- Generated tasks: what each pair promises (length, one-token answers, where things are), seeds, and that the built-in model solves them.
local pb, check = require "patchbay", require "patchbay.check"
local tasks, words = require "patchbay.tasks", require "patchbay.words"

local model = pb.load "facts"

local function texts(set)
  local list = {}
  for i = 1, #set do list[i] = set[i].clean.text .. " | " .. set[i].corrupt.text end
  return list
end

local function at(run, position) return model:decode { run.tokens[position + 1] } end

-- What the built-in model's README says it can do.
local SOLVED = { ioi = 0.95, induction = 0.8, facts = 1, agreement = 0.95, greater_than = 0.95 }

for _, name in ipairs { "ioi", "greater_than", "induction", "facts", "agreement", "docstring" } do
  check.test("tasks." .. name .. ": pairs of one length, different, with answers that differ", function()
    local set, seen = tasks[name](model, { n = 16, seed = 4 }), {}
    check.eq(#set, 16)
    for i = 1, #set do
      local pair, changed = set[i], 0
      check.eq(#pair.clean, #pair.corrupt)
      for p = 1, #pair.clean do changed = changed + (pair.clean.tokens[p] ~= pair.corrupt.tokens[p] and 1 or 0) end
      check.ok(changed > 0, "the prompts are equal")
      if name ~= "facts" then check.eq(changed, 1, pair.clean.text .. ": tokens changed") end
      check.ok(not seen[pair.clean.text], "a prompt twice: " .. pair.clean.text)
      seen[pair.clean.text] = true
      local wrong = {}
      for _, id in ipairs(pair.wrong) do wrong[id] = true end
      for _, id in ipairs(pair.answer) do check.ok(not wrong[id], "an answer that is wrong too") end
      if name ~= "facts" then check.eq(pair.positions["end"], #pair.clean - 1) end
    end
  end)
  check.test("tasks." .. name .. ": the seed decides", function()
    local a, b, c = tasks[name](model, { n = 6, seed = 1 }), tasks[name](model, { n = 6, seed = 1 }), tasks[name](model, { n = 6, seed = 2 })
    check.eq(texts(a), texts(b))
    check.ok(table.concat(texts(a), "\n") ~= table.concat(texts(c), "\n"), "another seed gives the same prompts")
  end)
  if SOLVED[name] then
    check.test("tasks." .. name .. ": the built-in model solves it, and turns round when corrupted", function()
      local set = tasks[name](model, { n = 40, seed = 9 })
      local right = set:measure("logit_diff"):gt(0):mean()
      check.ok(right >= SOLVED[name], ("right in %.3f"):format(right))
      check.ok(set:measure("logit_diff", "corrupt"):mean() < set:measure("logit_diff"):mean() - 1)
    end)
  end
end

check.test("tasks.ioi: names and positions", function()
  for _, corrupt in ipairs { "swap", "abc", "s2" } do
    local set = tasks.ioi(model, { n = 12, seed = 3, corrupt = corrupt })
    for i = 1, #set do
      local pair, run = set[i], set[i].clean
      local io, s = model:decode { pair.answer[1] }, model:decode { pair.wrong[1] }
      local p = pair.positions
      check.eq({ at(run, p.IO), at(run, p.S1), at(run, p.S2) }, { io, s, s })
      check.ok(p.S1 < p.S2 and p.IO < p.S2 and p.S1 ~= p.IO)
      local other = at(pair.corrupt, p.S2)
      if corrupt == "swap" then check.eq(other, io) else check.ok(other ~= io and other ~= s) end
      check.eq(at(pair.corrupt, p.IO) == io, corrupt ~= "abc")
      check.eq(pair.info.order, p.IO < p.S1 and "ABBA" or "BABA")
    end
  end
  local one = tasks.ioi(model, { n = 8, seed = 1, template = 1 })
  for i = 1, #one do check.eq(#one[i].clean, #one[1].clean) end
  check.raises(function() tasks.ioi(model, { template = 99 }) end, "template")
  check.raises(function() tasks.ioi(model, { corrupt = "swop" }) end, "did you mean 'swap'")
end)

check.test("tasks.greater_than: every year above is an answer", function()
  local set = tasks.greater_than(model, { n = 10, seed = 2 })
  for i = 1, #set do
    local pair = set[i]
    check.eq(#pair.answer + #pair.wrong, 100)
    check.eq(#pair.answer, 99 - pair.info.year)
    check.eq(at(pair.clean, pair.positions.year), ("%02d"):format(pair.info.year))
    check.eq(at(pair.corrupt, pair.positions.year), "01")
  end
  check.close(set:measure("prob_diff"):mean(), 0.797, 0.15)
end)

check.test("tasks.induction: the second round is the first", function()
  local set = tasks.induction(model, { n = 10, seed = 2, length = 9, repeated = 4, corrupt = "target" })
  local unmatched = tasks.induction(model, { n = 10, seed = 2, length = 9, repeated = 4 })
  for i = 1, #set do
    local run, p = set[i].clean, set[i].positions
    check.eq(#run, 13)
    for k = 1, 4 do check.eq(run.tokens[9 + k], run.tokens[k]) end
    check.eq(run.tokens[p.target + 1], set[i].answer[1])
    check.eq(run.tokens[p.first + 1], run.tokens[p["end"] + 1])
    check.eq(set[i].corrupt.tokens[p.target + 1], set[i].wrong[1])
    check.eq(unmatched[i].clean.tokens, run.tokens)
    check.eq(unmatched[i].corrupt.tokens[p.first + 1], unmatched[i].wrong[1])
    check.eq(unmatched[i].corrupt.tokens[p.target + 1], run.tokens[p.target + 1])
  end
  check.raises(function() tasks.induction(model, { length = 5, repeated = 5 }) end, "1 to length - 1")
  check.raises(function() tasks.induction(model, { length = 5000 }) end, "5000")
end)

check.test("tasks.induction: a model without tokenizer", function()
  local bare = pb.load((check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques/models/gpt2")
  local set = tasks.induction(bare, { n = 4, seed = 1, length = 4 })
  check.eq(#set[1].clean, 6)
  check.raises(function() tasks.ioi(bare, { n = 4 }) end)
end)

check.test("tasks: a beginning-of-text token shifts the positions with it", function()
  local plain, bos = tasks.ioi(model, { n = 4, seed = 5 }), tasks.ioi(model, { n = 4, seed = 5, bos = true })
  for i = 1, 4 do
    check.eq(#bos[i].clean, #plain[i].clean + 1)
    check.eq(bos[i].positions.S2, plain[i].positions.S2 + 1)
  end
end)

check.test("tasks: what cannot be made is told", function()
  check.raises(function() tasks.induction(model, { length = 60 }) end, "0 different pairs", "longer than the model")
  check.raises(function() tasks.ioi(model, { m = 3 }) end, "unknown field 'm'")
end)

check.test("words: whole words only", function()
  local ids = words.tokens(model)
  check.ok(#ids > 500)
  for _, id in ipairs(ids) do check.ok(model:label(id):find "^␣%a%a%a+$", model:label(id)) end
end)
