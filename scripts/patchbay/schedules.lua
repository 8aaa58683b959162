-- Learning rates over a run: functions of the step's number, from 0.
local pb = require "patchbay"

local schedules = {}

-- One rate after a linear warm-up.
function schedules.constant(rate, warmup)
  return function(step) return rate * math.min(1, (step + 1) / (warmup or 1)) end
end

-- Linear warm-up, then half a cosine from rate down to least at the last step.
function schedules.cosine(given)
  local o = pb.options(given, { warmup = 0, least = 0, "rate", "steps" }, "train.cosine")
  if not (o.rate and o.steps) then pb.fail "train.cosine needs rate and steps" end
  return function(step)
    if step < o.warmup then return o.rate * (step + 1) / o.warmup end
    local share = (step - o.warmup) / math.max(1, o.steps - 1 - o.warmup)
    return o.least + (o.rate - o.least) * 0.5 * (1 + math.cos(math.pi * math.min(1, share)))
  end
end

-- Straight lines between { step, rate } points, constant before the first and after the last. Two points at one step: a jump.
function schedules.piecewise(points)
  if type(points) ~= "table" or #points == 0 then pb.fail "train.piecewise takes a list of { step, rate }" end
  for i, p in ipairs(points) do
    if type(p) ~= "table" or type(p[1]) ~= "number" or type(p[2]) ~= "number" then pb.fail("train.piecewise: point %d is not { step, rate }", i) end
    if i > 1 and p[1] < points[i - 1][1] then pb.fail("train.piecewise: the step of point %d is before that of point %d", i, i - 1) end
  end
  return function(step)
    local before
    for _, p in ipairs(points) do
      if step < p[1] then
        if not before then return p[2] end
        return before[2] + (p[2] - before[2]) * (step - before[1]) / (p[1] - before[1])
      end
      before = p
    end
    return before[2]
  end
end

return schedules
