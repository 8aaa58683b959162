-- Stratified sampling, and what may be said of all from a sample: intervals by bootstrap, exact upper bounds of counts.
local pb = require "patchbay"

local sample = {}

-- sample.strata(estimates, { cells =, listed =, strata =, seed = }) -> list of { number, size, drawn, chosen = 0-based indices }.
-- Stratum 0: the cells with the largest estimates, all of them chosen (listed of them; by default a quarter of the sample). The
-- others by falling size of estimate; strata grow from one to the next by one factor, and as many are drawn from each, at random.
function sample.strata(estimates, o)
  local n, budget = #estimates, math.min(o.cells, #estimates)
  local tensor = pb.tensor(estimates)
  if tensor:nonfinite() > 0 then pb.fail "audit: the estimates hold numbers that are not finite" end
  local order, chance = tensor:abs():argsort(true):tolist(), pb.rand { n, seed = o.seed, draw = 0 }:tolist()
  local listed = math.min(o.listed or math.max(budget // 4, 1), budget)
  local function part(number, first, size, drawn)
    local members, chosen = {}, {}
    for k = first, first + size - 1 do members[#members + 1] = math.tointeger(order[k]) end
    if drawn < size then table.sort(members, function(a, b) return chance[a + 1] < chance[b + 1] or (chance[a + 1] == chance[b + 1] and a < b) end) end
    for k = 1, drawn do chosen[k] = members[k] end
    return { number = number, size = size, drawn = drawn, chosen = chosen }
  end
  local list, first, left = { part(0, 1, listed, listed) }, listed + 1, budget - listed
  local count = math.min(o.strata, left)
  for s = 1, count do
    local rest = n - first + 1
    local last = s == count
    local size = last and rest or math.min(rest, math.max(left // (count - s + 1), math.floor(listed * (n / listed) ^ (s / count) + 0.5) - first + 1))
    local drawn = last and math.min(left, size) or math.min(left // (count - s + 1), size)
    if size > 0 and drawn > 0 then list[#list + 1] = part(s, first, size, drawn) end
    first, left = first + size, left - drawn
  end
  return list
end

-- sample.bootstrap(rows, statistic, { resamples =, confidence =, seed = }) -> name -> { low, high }: rows are drawn again from their own
-- stratum, with replacement; a stratum that was measured whole stays as it is.
function sample.bootstrap(rows, statistic, o)
  local strata, values = {}, {}
  for _, row in ipairs(rows) do
    strata[row.stratum] = strata[row.stratum] or {}
    table.insert(strata[row.stratum], row)
  end
  for draw = 1, o.resamples do
    local again, chance = {}, pb.rand { #rows, seed = o.seed, draw = draw }:tolist()
    for k, row in ipairs(rows) do
      local own = strata[row.stratum]
      again[k] = row.weight == 1 and row or own[math.min(#own, 1 + math.floor(chance[k] * #own))]
    end
    for name, value in pairs(statistic(again)) do
      values[name] = values[name] or {}
      if value == value then table.insert(values[name], value) end
    end
  end
  for name, list in pairs(values) do
    table.sort(list)
    local tail = (1 - o.confidence) / 2
    local function quantile(q) return list[math.max(1, math.min(#list, math.floor(q * (#list - 1) + 1.5)))] or 0 / 0 end
    values[name] = { quantile(tail), quantile(1 - tail) }
  end
  return values
end

-- ln n!: exact sums below 16, Stirling's series above (relative error below 1e-12).
local function log_factorial(n)
  if n < 16 then
    local sum = 0.0
    for k = 2, n do sum = sum + math.log(k) end
    return sum
  end
  return n * math.log(n) - n + 0.5 * math.log(2 * math.pi * n) + 1 / (12 * n) - 1 / (360 * n ^ 3) + 1 / (1260 * n ^ 5)
end

local function log_choose(n, k) return log_factorial(n) - log_factorial(k) - log_factorial(n - k) end

-- Chance to find at most `found` of `marked` ones in `drawn` of `size`, without replacement.
local function chance_of_at_most(size, marked, drawn, found)
  local sum = 0
  for x = math.max(0, drawn - (size - marked)), math.min(found, marked, drawn) do
    sum = sum + math.exp(log_choose(marked, x) + log_choose(size - marked, drawn - x) - log_choose(size, drawn))
  end
  return sum
end

-- sample.upper_bound(size, drawn, found, risk) -> the largest number of marked ones among `size` that leaves more than `risk` for a
-- sample with so few of them: an exact one-sided confidence bound.
function sample.upper_bound(size, drawn, found, risk)
  if drawn == 0 then return size end
  local low, high = found, size - (drawn - found) -- those seen unmarked are not marked
  while low < high do
    local middle = (low + high + 1) // 2
    if chance_of_at_most(size, middle, drawn, found) > risk then low = middle else high = middle - 1 end
  end
  return low
end

-- sample.bound_of_none(strata, risk) -> the most marked ones in all strata together, when none was drawn from any: the largest
-- total that leaves more than `risk` for such a sample. One after the other is marked where it costs the least chance; each
-- further one of a stratum costs more, so that this is the largest.
function sample.bound_of_none(strata, risk)
  local marked, chance, total = {}, 0, 0
  while true do
    local best, cost
    for i, s in ipairs(strata) do
      local left = s.size - (marked[i] or 0)
      local price = left > s.drawn and math.log(left / (left - s.drawn)) or math.huge
      if price < (cost or math.huge) then best, cost = i, price end
    end
    if not best or not (chance - cost > math.log(risk)) then return total end
    marked[best], chance, total = (marked[best] or 0) + 1, chance - cost, total + 1
  end
end

return sample
