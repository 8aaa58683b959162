-- A small set of components that restores a given share of a metric, by greedy search: patching.greedy is this file's function.
local pb = require "patchbay"
local cells = require "patchbay.cells"

local function with_one_more(chosen, candidate)
  local group = { table.unpack(chosen) }
  group[#group + 1] = candidate
  group.name = candidate.name
  return group
end

local function without(chosen, k)
  local rest = {}
  for j, place in ipairs(chosen) do
    if j ~= k then rest[#rest + 1] = place end
  end
  return rest
end

-- patching.greedy(set, metric, { share = 0.9, candidates =, most =, direction = }) -> list of places, with .recovered, .steps
-- Adds the candidate that restores most together with those chosen, until the share is reached; then leaves out each that is not
-- needed any more. Greedy: a smaller set may exist.
return function(set, metric, given)
  local patching = require "patchbay.patching"
  local o = pb.options(given, { "candidates", "most", "memory", share = 0.9, direction = "denoising" }, "patching.greedy")
  set = cells.set(set, "patching.greedy")
  if type(o.share) ~= "number" or o.share <= 0 then pb.fail("patching.greedy: share must be a number above 0 (0.9: nine tenths), got %s", tostring(o.share)) end
  if o.most ~= nil and (math.type(o.most) ~= "integer" or o.most < 1) then pb.fail("patching.greedy: most must be a number of components, got %s", tostring(o.most)) end
  if o.candidates and #o.candidates == 0 then pb.fail "patching.greedy: the list of candidates is empty" end
  local left = { table.unpack(o.candidates or patching.components(set.model)) }
  local chosen, steps, recovered = {}, {}, 0
  local options = { memory = o.memory, direction = o.direction }
  local function measure(groups) return patching.groups(set, metric, groups, options):recovered().values:tolist() end
  while recovered < o.share and #left > 0 and #chosen < (o.most or #left + #chosen) do
    local trials = {}
    for i, candidate in ipairs(left) do trials[i] = with_one_more(chosen, candidate) end
    local best, shares = 1, measure(trials)
    for i, share in ipairs(shares) do best = share > shares[best] and i or best end
    chosen, recovered = trials[best], shares[best]
    steps[#steps + 1] = { name = left[best].name, recovered = recovered }
    left = without(left, best)
  end
  while #chosen > 1 and recovered >= o.share do
    local trials = {}
    for k = 1, #chosen do trials[k] = without(chosen, k) end
    local best, shares = 1, measure(trials)
    for k, share in ipairs(shares) do best = share > shares[best] and k or best end
    if shares[best] < o.share then break end
    chosen, recovered = trials[best], shares[best]
  end
  chosen.name, chosen.recovered, chosen.steps, chosen.reached = nil, recovered, steps, recovered >= o.share
  return chosen
end
