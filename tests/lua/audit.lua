-- The audit: estimates that are right, wrong and noisy by design, the bounds' promise by simulation, and a real table.
local pb, check = require "patchbay", require "patchbay.check"
local audit, sample, attribution = require "patchbay.audit", require "patchbay.sample", require "patchbay.attribution"

-- 400 effects of falling size, and what an estimate makes of them.
local exact = {}
for i, x in ipairs(pb.randn({ 400, seed = 1, draw = 0 }):tolist()) do exact[i] = x ^ 3 end

local function measured(list)
  return function(indices)
    local values = {}
    for k, index in ipairs(indices) do values[k] = list[index + 1] end
    return values
  end
end

local function map(fn)
  local list = {}
  for i, x in ipairs(exact) do list[i] = fn(x, i) end
  return list
end

local function run(estimates, o)
  local given = { estimates = estimates, measure = measured(exact), cells = 120, resamples = 40, seed = 2 }
  for key, value in pairs(o or {}) do given[key] = value end
  return audit.compare(given)
end

check.test("audit: a perfect estimate", function()
  local r = run(exact)
  check.close(r.rank_correlation, 1, 1e-9)
  check.close(r.relative_error, 0, 1e-12)
  check.eq(r.sign_errors, 0.0)
  check.eq(r.population, 400)
  check.eq(r.measured, 120)
  check.eq(r.missed.found, 0)
  check.close(r.intervals.rank_correlation, { 1, 1 }, 1e-9)
end)

check.test("audit: wrong signs, and a wrong scale", function()
  local r = run(map(function(x) return -x end))
  check.close(r.rank_correlation, -1, 1e-9)
  check.close(r.sign_errors, 1, 1e-9)
  check.close(r.relative_error, 2, 1e-9)
  r = run(map(function(x) return -x end), { absolute = true })
  check.eq(tostring(r):find "wrong sign", nil)
  r = run(map(function(x) return x * 1.5 end))
  check.close(r.relative_error, 0.5, 1e-6)
  check.close(r.rank_correlation, 1, 1e-9)
end)

check.test("audit: all cells measured are the plain statistics, without intervals", function()
  local estimates = map(function(x, i) return x + (i % 7 - 3) * 0.2 end)
  local r = run(estimates, { cells = 1000 })
  local off, mass, wrong = 0, 0, 0
  for i, x in ipairs(exact) do
    off, mass = off + math.abs(x - estimates[i]), mass + math.abs(x)
    wrong = wrong + (x * estimates[i] <= 0 and math.abs(x) > 1e-6 * 27 and 1 or 0)
  end
  check.eq(r.measured, 400)
  check.close(r.relative_error, off / mass, 1e-6)
  check.close(r.sign_errors, wrong / 400, 0.01)
  check.close(r.intervals.relative_error, { r.relative_error, r.relative_error }, 1e-9)
  local seen = 0
  for i, row in ipairs(r.rows) do seen = seen + (row.stratum > 0 and math.abs(row.exact) > r.missed.threshold and 1 or 0) end
  check.eq(r.missed.found, seen)
  check.eq(r.missed.at_most, seen, "nothing is left to bound")
  check.ok(tostring(r):find("400 of 400 cells patched exactly\n", 1, true), tostring(r))
end)

check.test("audit: a sample's statistics are near those of all cells, and its intervals hold them", function()
  local estimates = map(function(x, i) return 0.7 * x + (i % 11 - 5) * 0.15 end)
  local all = run(estimates, { cells = 1000 })
  local inside, n = 0, 16
  for seed = 1, n do
    local r = run(estimates, { seed = seed, cells = 100, resamples = 60 })
    check.close(r.rank_correlation, all.rank_correlation, 0.25)
    check.close(r.relative_error, all.relative_error, 0.4 * all.relative_error)
    inside = inside + (r.intervals.relative_error[1] <= all.relative_error and all.relative_error <= r.intervals.relative_error[2] and 1 or 0)
  end
  check.ok(inside >= 12, inside .. " of " .. n .. " intervals hold the value")
end)

check.test("audit: what the estimate misses is bounded, and the bound holds", function()
  -- 25 of the largest effects are estimated as nothing.
  local estimates, hidden, held = map(function(x) return x end), {}, 0
  local order = pb.tensor(exact):abs():argsort(true):tolist()
  for k = 1, 50, 2 do
    estimates[math.tointeger(order[k]) + 1] = 0.0
    hidden[#hidden + 1] = math.tointeger(order[k])
  end
  for seed = 1, 25 do
    local r = run(estimates, { seed = seed, cells = 100, threshold = 2.0, resamples = 1 })
    local listed, truth, above = {}, 0, 0
    for _, row in ipairs(r.rows) do if row.stratum == 0 then listed[row.index] = true end end
    for i, x in ipairs(exact) do
      if not listed[i - 1] then truth, above = truth + (math.abs(x) > 2.0 and 1 or 0), above + (math.abs(x) > r.missed.largest and 1 or 0) end
    end
    check.ok(truth > 0)
    held = held + (r.missed.at_most >= truth and r.missed.larger_at_most >= above and 1 or 0)
  end
  check.ok(held >= 22, held .. " of 25 bounds hold")
end)

check.test("audit: the exact bound of a count", function()
  check.eq(sample.upper_bound(100, 100, 7, 0.05), 7)
  check.eq(sample.upper_bound(100, 0, 0, 0.05), 100)
  -- C(100 - K, 30) / C(100, 30) > 0.05, by hand
  local function none(K)
    local p = 1
    for i = 0, 29 do p = p * (100 - K - i) / (100 - i) end
    return p
  end
  local K = 0
  while none(K + 1) > 0.05 do K = K + 1 end
  check.eq(sample.upper_bound(100, 30, 0, 0.05), K)
  check.eq(sample.bound_of_none({ { size = 100, drawn = 30 } }, 0.05), K)
  check.ok(sample.upper_bound(100000, 50, 3, 0.05) < 100000 * 0.15)
  check.ok(sample.upper_bound(100000, 50, 3, 0.05) > 100000 * 0.14) -- Clopper and Pearson: 0.1478
  check.eq(sample.bound_of_none({ { size = 40, drawn = 40 } }, 0.05), 0)
  check.ok(sample.bound_of_none({ { size = 40, drawn = 10 }, { size = 400, drawn = 10 } }, 0.05) >= sample.upper_bound(400, 10, 0, 0.05))
end)

check.test("audit: strata hold every cell once, the sample none twice", function()
  for _, o in ipairs { { cells = 50, strata = 5, seed = 1 }, { cells = 3, strata = 5, seed = 1 }, { cells = 400, strata = 3, seed = 1 }, { cells = 399, strata = 4, seed = 9 },
                       { cells = 60, strata = 5, seed = 1, listed = 60 }, { cells = 1, strata = 1, seed = 1 } } do
    local strata, seen, size, drawn = sample.strata(exact, o), {}, 0, 0
    for _, s in ipairs(strata) do
      size, drawn = size + s.size, drawn + s.drawn
      check.eq(#s.chosen, s.drawn)
      check.ok(s.drawn >= 1 and s.drawn <= s.size)
      for _, index in ipairs(s.chosen) do
        check.ok(not seen[index] and index >= 0 and index < 400)
        seen[index] = true
      end
    end
    check.eq(drawn, math.min(o.cells, 400), o.cells .. " cells")
    if #strata > 1 then check.eq(size, 400, o.cells .. " cells") end
  end
end)

check.test("audit: the same seed, the same report", function()
  local a, b, c = run(exact), run(exact), run(exact, { seed = 3 })
  check.eq(tostring(a), tostring(b))
  local function indices(r)
    local list = {}
    for i, row in ipairs(r.rows) do list[i] = row.index end
    return table.concat(list, " ")
  end
  check.eq(indices(a), indices(b))
  check.ok(indices(a) ~= indices(c))
end)

-- ---- of a real table -----------------------------------------------------------------------------------------------------

local data = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques"
local case = pb.read(data .. "/attribution/gpt2/case.json").inputs
local model = pb.load(data .. "/models/gpt2")
local set = pb.pairs(model, { { clean = case.clean, corrupt = case.corrupt, answer = case.answer, wrong = case.wrong, positions = { x = 2 } },
                              { clean = case.corrupt, corrupt = case.clean, answer = case.answer, wrong = case.wrong, positions = { x = 4 } } })

check.test("attribution.audit: measures what the sweep measures", function()
  for _, direction in ipairs { "denoising", "noising" } do
    local grid = attribution.patching(set, { site = "z", over = { "layer", "pos", "head" }, direction = direction })
    local sweep = set:sweep { site = "z", over = { "layer", "pos", "head" }, metric = "logit_diff", direction = direction }:change().values:tolist()
    local r = attribution.audit(set, grid, { cells = 40, resamples = 20 })
    check.eq(r.population, 84)
    for _, row in ipairs(r.rows) do check.close(row.exact, sweep[row.index + 1], 1e-5, row.name) end
  end
end)

check.test("attribution.audit: groups, names and fixed coordinates are patched as they are estimated", function()
  local o = { site = "mlp_out", over = { "layer", "pos" }, layer = { { 0, 1 }, 2 }, pos = { "x", { name = "two", 1, -1 } } }
  local r = attribution.audit(set, attribution.patching(set, o), { cells = 4, resamples = 2 })
  local exactly = set:sweep { site = "mlp_out", over = { "layer", "pos" }, layer = o.layer, pos = o.pos, metric = "logit_diff" }:change()
  for _, row in ipairs(r.rows) do check.close(row.exact, exactly.values:tolist()[row.index + 1], 1e-5, row.name) end
end)

check.test("attribution.audit: masked cells of a pattern are no cells; repaired estimates are closer", function()
  local pattern = attribution.patching(set, { site = "pattern", over = { "layer", "head", "dest", "src" } })
  check.eq(attribution.audit(set, pattern, { cells = 10, resamples = 2 }).population, 3 * 4 * 28)
  local function of(o) return attribution.audit(set, attribution.patching(set, o), { cells = 84, resamples = 2 }).relative_error end
  local plain, fixed = of { site = "q", over = { "layer", "pos", "head" } }, of { site = "q", over = { "layer", "pos", "head" }, qk_fix = true }
  check.ok(fixed < plain, ("%g, %g"):format(fixed, plain))
  local star = attribution.star(set, { site = "z", over = { "layer", "pos", "head" } })
  local r = attribution.audit(set, star, { cells = 84, resamples = 2 })
  check.ok(r.absolute and r.rank_correlation > 0.5, tostring(r))
end)

check.test("audit: the report as text, figure and file", function()
  local r = run(map(function(x, i) return x + (i % 5) * 0.1 end))
  local text = tostring(r)
  for _, part in ipairs { "120 of 400 cells patched exactly", "rank correlation", "relative error", "wrong sign", "missed", "at most" } do
    check.ok(text:find(part, 1, true), part .. " is not in\n" .. text)
  end
  r:figure():save "audit.png"
  r:save "audit.csv"
  local rows = pb.read "audit.csv"
  check.eq(#rows, 120)
  check.close(rows[1].exact, r.rows[1].exact, 1e-6)
end)

check.test("example attribution: heads, audits with and without the exact softmax, words", function()
  local out = check.output_folder() .. "/attribution"
  local result = check.recipe { file = "examples/attribution.lua", output = out, params = { "pairs=6", "cells=40" } }
  check.ok(result.ok, tostring(result.message))
  for _, part in ipairs { "head 2%.3: exact %+%d%.%d+, estimated %+%d%.%d+", "queries, softmax exact", "cells patched exactly, intervals of 95 %%", "the metric's change" } do
    check.ok(result.printed:find(part), part .. " is not in\n" .. result.printed)
  end
end)

check.test("audit: what is refused, with the reason", function()
  local grid = attribution.patching(set, { site = "z" })
  check.raises(function() attribution.audit(set, 3) end, "must be a grid of scores")
  check.raises(function() attribution.audit(set, grid, { cells = 0 }) end, "cells must be a positive integer")
  check.raises(function() attribution.audit(set, grid, { confidence = 2 }) end, "confidence")
  check.raises(function() attribution.audit(set, pb.grid { values = pb.zeros(3, 4), axes = { "layer", "head" } }) end, "site is missing")
  check.raises(function() audit.compare { estimates = { 1, 0 / 0 }, measure = measured(exact) } end, "not finite")
  check.raises(function() audit.compare { estimates = { 1 }, measure = measured(exact) } end, "two numbers or more")
  check.raises(function() audit.compare { estimates = exact } end, "needs measure")
end)
