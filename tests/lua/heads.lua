-- Heads: scores against the patterns by hand, weights against the products written out, the README's heads of the built-in model, and the
-- induction circuit with its causal check. (The peers' arrays are in lens.lua: golden/techniques/lens.)
local pb, check = require "patchbay", require "patchbay.check"
local heads, tasks = require "patchbay.heads", require "patchbay.tasks"

local data = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques/models/"
local model = pb.load "facts"

local function name(cell) return ("%d.%d"):format(cell.layer, cell.head) end

local function names(cells)
  local list = {}
  for i, cell in ipairs(cells) do list[i] = name(cell) end
  table.sort(list)
  return list
end

-- ---- scores ---------------------------------------------------------------------------------------------------------------------------

check.test("heads: repeated sequences repeat, with different words inside, the same for the same seed", function()
  local runs, start, n = heads.repeated(model, { n = 3, length = 7, seed = 2 })
  for i, run in ipairs(runs) do
    check.eq(#run, start + 14)
    local seen = {}
    for p = start + 1, start + n do
      check.eq(run.tokens[p], run.tokens[p + n])
      check.ok(not seen[run.tokens[p]], "a word twice in one round")
      seen[run.tokens[p]] = true
    end
    check.eq(heads.repeated(model, { n = 3, length = 7, seed = 2 })[i].tokens, run.tokens)
  end
  check.ok(table.concat(runs[1].tokens, " ") ~= table.concat(runs[2].tokens, " "), "two sequences are the same")
  check.raises(function() heads.repeated(model, { length = 4, tokens = { 1, 2, 3 } }) end, "length 4 needs as many different tokens")
  local given, from, length = heads.repeated(model, { sequences = { { 5, 6, 7 }, { 8, 9, 10 } }, bos = true })
  check.eq({ #given, from, length }, { 2, 1, 3 })
  check.eq(given[2].tokens, { 2047, 8, 9, 10, 8, 9, 10 })
  check.raises(function() heads.repeated(model, { sequences = { { 5, 6, 7 }, { 8 } } }) end, "one length", "number 2 has 1")
  check.raises(function() heads.repeated(model, { sequences = {} }) end, "empty")
  -- the words of a set of prompts
  local set = tasks.induction(model, { n = 3, length = 5, seed = 1, tokens = { 30, 40, 50, 60, 70, 80, 90 } })
  local pool = {}
  for _, run in ipairs(heads.repeated(model, { n = 8, length = 5, tokens = set })) do
    for _, id in ipairs(run.tokens) do pool[id] = true end
  end
  for id in pairs(pool) do check.ok(id % 10 == 0 and id >= 30 and id <= 90, "token " .. id) end
end)

check.test("heads: scores are means of pattern entries", function()
  local options = { n = 2, length = 5, seed = 3, offsets = 2 }
  local scores = heads.scores(model, options)
  local runs, start, n = heads.repeated(model, { n = 2, length = 5, seed = 3 })
  local function mean(weight)
    local sum, count = 0, 0
    for _, run in ipairs(runs) do
      local pattern = run:value("pattern", 2):select(0, 1)
      for q = 0, #run - 1 do
        local k = weight(q)
        if k and k >= 0 then sum, count = sum + pattern:get(q, k), count + 1 end
      end
    end
    return sum / count
  end
  local at = { layer = 2, head = 1 }
  check.close((scores.previous:get(at)), mean(function(q) return q >= start + n and q - 1 end), 1e-6)
  check.close((scores.current:get(at)), mean(function(q) return q >= start + n and q end), 1e-6)
  check.close((scores.first:get(at)), mean(function(q) return q >= start + n and 0 end), 1e-6)
  for k = 0, 2 do -- the last two have no second token after them in the first round
    check.close((scores.offset[k]:get(at)), mean(function(q) return q >= start + n and q < #runs[1] - 2 and q - n + k end), 1e-6, "offset " .. k)
  end
  check.eq(scores.induction.values, scores.offset[1].values)
  check.eq(scores.duplicate.values, scores.offset[0].values)
  local row = runs[1]:value("pattern", 2):select(0, 1)
  check.ok(scores.previous.se and #scores.previous.parts == 2 and row.shape[1] == #runs[1])
end)

-- ---- weights --------------------------------------------------------------------------------------------------------------------------

for _, kind in ipairs { "gpt2", "llama" } do
  local small = pb.load(data .. kind)
  local group = small.heads // small.kv_heads
  local function of(layer, what, head)
    return small:parameter(("blocks.%d.attn.%s"):format(layer, what)):select(0, (what == "W_K" or what == "W_V") and head // group or head)
  end
  local function t(x) return x:transpose(0, 1) end

  check.test(("heads %s: composition scores are those of the products written out"):format(kind), function()
    local ov = of(0, "W_V", 1):matmul(of(0, "W_O", 1))
    local qk = of(2, "W_Q", 3):matmul(t(of(2, "W_K", 3)))
    local later = of(2, "W_V", 3):matmul(of(2, "W_O", 3))
    for part, B in pairs { Q = qk, K = t(qk), V = later } do
      local grid = heads.composition(small, part)
      check.close((grid:get { layer = 0, head = 1, later_layer = 2, later_head = 3 }), ov:matmul(B):norm() / ov:norm() / B:norm(), 1e-5, part)
      check.eq((grid:get { layer = 1, head = 1, later_layer = 1, later_head = 3 }), 0.0)
      check.eq((grid:get { layer = 2, head = 1, later_layer = 0, later_head = 3 }), 0.0)
    end
  end)

  check.test(("heads %s: the singular parts of OV and QK put together are the matrix"):format(kind), function()
    local ov, qk = of(1, "W_V", 2):matmul(of(1, "W_O", 2)), of(1, "W_Q", 2):matmul(t(of(1, "W_K", 2)))
    for what, M in pairs { ov = ov, qk = qk } do
      local c = heads.circuit(small, 1, 2, what, { directions = 2, tokens = 3 })
      check.close((c.u * c.s):matmul(c.v), M, 1e-4, what)
      local trace = 0
      for i = 0, M.shape[1] - 1 do trace = trace + M:get(i, i) end
      check.close(c.eigenvalues:select(1, 0):sum(), trace, 1e-3, what .. ": the sum of the eigenvalues is the trace")
      check.eq({ #c.directions, #(c.directions[1].reads or c.directions[1].query) }, { 2, 3 })
    end
  end)
end

check.test("heads: previous-token heads of the built-in model copy what they read", function()
  local copying = heads.copying(model)
  check.ok((copying:get { layer = 1, head = 2 }) > 0.4, "previous-token heads pass the word on")
  check.raises(function() heads.copying(model, "vo") end, "full_ov, ov, full_qk")
end)

-- ---- the built-in model -----------------------------------------------------------------------------------------------------------------

check.test("heads: drawn anew, the heads that read repeats and look back have the README's figures within their sampling error", function()
  local words = require "patchbay.data".pairs(model, "induction", { quiet = true, bos = false }) -- the same words as the README's sequences
  local scores = heads.scores(model, { seed = 1, tokens = words, bos = true, offsets = 3 })
  check.eq(names(scores.previous:top(3)), { "1.0", "1.2", "1.3" })
  for head, wanted in pairs { [0] = 0.832, [2] = 0.841, [3] = 0.836, [1] = 0.575 } do
    local value, se = scores.previous:get { layer = 1, head = head }
    check.ok(se < 0.01, "50 sequences")
    check.close(value, wanted, 4 * se, "previous 1." .. head)
  end
  check.eq(names(scores.offset[2]:top(4)), { "2.0", "2.1", "2.2", "2.3" })
  for head, wanted in pairs { [0] = 0.900, [1] = 0.870, [2] = 0.904, [3] = 0.895 } do
    local value, se = scores.offset[2]:get { layer = 2, head = head }
    check.close(value, wanted, 5 * se, "offset 2, head 2." .. head)
  end
  check.ok(scores.offset[2]:top(5)[5].value < 0.4, "a fifth head reads repeats")
  check.eq(name(scores.induction:top(1)[1]), "5.0")
  check.close(scores.induction:max(), 0.069, 0.01, "by the usual score no head stands out")
end)

check.test("heads.induction: the links through the readers' keys are found, and a score without effect is told apart", function()
  local found = heads.induction(model, { seed = 1, n = 12 })
  check.eq(found.offset, 2)
  check.eq(names(found.readers), { "2.0", "2.1", "2.2", "2.3" })
  check.eq(#found.links, #found.previous * 4)
  for i = 1, 12 do
    local link = found.links[i]
    check.eq(link.previous.layer, 1, "link " .. i)
    check.ok(link.recovered > 0.05 and link.recovered > 2 * link.se, "link " .. i)
  end
  check.ok(found.links[#found.links].recovered < 0, "head 0.2 attends to the token before, and is no part of it")
  check.eq(name(found.links[#found.links].previous), "0.2")
end)

check.test("heads: errors say what was wrong", function()
  check.raises(function() heads.composition(model, "QK") end, "Q, K, V")
  check.raises(function() heads.circuit(model, 0, 0, "vo") end, "ov, qk")
  check.raises(function() heads.scores(model, { lenght = 3 }) end, "length")
  check.raises(function() heads.scores(model, { length = 4, offsets = 4 }) end, "1 to length - 1 (3)")
  check.raises(function() heads.detect(model:run "a b", "previous") end, "previous_token")
end)
