-- Every array of the peers' patching sweeps (golden/techniques/patching), made by one generic run:sweep, within the
-- tolerance that comes with it.
local pb, check = require "patchbay", require "patchbay.check"

local data = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques"
local shared = check.environment "PB_SHARED" or "../shared"

local function loaded(path)
  local ok, value = pcall(pb.read, path)
  return ok and value or nil
end

-- The golden's axis names as coordinates of a sweep: kv_head is the head axis of k and v.
local function axes_of(names)
  local axes = {}
  for i, name in ipairs(names) do axes[i] = name == "kv_head" and "head" or name end
  return axes
end

local function largest_difference(got, wanted)
  local flat, worst = wanted:tolist(), 0
  for i, x in ipairs(got:tolist()) do
    local gap = math.abs(x - flat[i])
    if not (gap <= worst) then worst = gap end
  end
  return worst
end

-- The sweeps of one case: expected(name) against sweep(direction, metric, site, axes).
local function open_case(folder, model_folder)
  local case, expected = loaded(folder .. "/case.json"), loaded(folder .. "/expected.safetensors")
  local model = pb.load(model_folder)
  local inputs = case.inputs
  local runs = { clean = model:run(inputs.clean) }
  runs.corrupt = runs.clean:fork(inputs.corrupt)
  local metrics = { logit_diff = pb.metric.logit_diff(inputs.answer, inputs.wrong), prob = pb.metric.prob(inputs.answer) }
  local function sweep(direction, metric, site, axes)
    local into, from = runs.corrupt, runs.clean
    if direction == "noise" then into, from = from, into end
    return into:sweep { site = site, over = axes, from = from, metric = metrics[metric] }
  end
  return { case = case, expected = expected, model = model, runs = runs, metrics = metrics, sweep = sweep }
end

-- One part of a stack: [layer, ..., head] of one site, in the stack's axes (a pattern's dest stands for pos).
local function part_of_stack(c, direction, metric, site, axes)
  if site ~= "pattern" then return c.sweep(direction, metric, site, axes).values end
  local own = {}
  for i, axis in ipairs(axes) do own[i] = axis == "pos" and "dest" or axis end
  return c.sweep(direction, metric, site, own).values
end

local function check_stack(c, name, about)
  local direction, metric = name:match "^(%w+)%.([%w_]+)%."
  local axes, place = axes_of { table.unpack(about.axes, 2) }, 0
  for site in about.axes[1]:gmatch "[^|]+" do
    local got, wanted = part_of_stack(c, direction, metric, site, axes), c.expected[name]:select(0, place)
    local heads = got.shape[#axes]
    if axes[#axes] == "head" and heads < wanted.shape[#axes] then -- padded: the rest is zeros, no measurement
      local rest = wanted:narrow(#axes - 1, heads, wanted.shape[#axes] - heads)
      check.eq(rest:abs():max(), 0.0, name .. ": the padding of " .. site)
      wanted = wanted:narrow(#axes - 1, 0, heads)
    end
    check.eq(got.shape, wanted.shape, name .. ", " .. site)
    local gap = largest_difference(got, wanted)
    check.ok(gap <= about.tolerance, ("%s, %s: differs by %.3g, tolerance %.3g"):format(name, site, gap, about.tolerance))
    place = place + 1
  end
  check.eq(place, c.expected[name].shape[1], name .. ": parts")
end

local function check_array(c, name, about)
  local base, run, base_metric = name:match "^(base)%.(%w+)%.([%w_]+)$"
  if base then
    local got = c.metrics[base_metric](c.runs[run])
    check.close(got, c.expected[name]:item(), about.tolerance, name)
    return
  end
  local direction, metric, site = name:match "^(%w+)%.([%w_]+)%.([%w_]+)"
  if site == "every" then return check_stack(c, name, about) end
  local grid = c.sweep(direction, metric, site, axes_of(about.axes))
  check.eq(grid.values.shape, c.expected[name].shape, name)
  local gap = largest_difference(grid.values, c.expected[name])
  check.ok(gap <= about.tolerance, ("%s differs by %.3g, tolerance %.3g"):format(name, gap, about.tolerance))
  check.close(grid.base, c.expected[("base.%s.%s"):format(direction == "noise" and "clean" or "corrupt", metric)]:item(), 1e-4, name .. ": base")
  check.close(grid.target, c.expected[("base.%s.%s"):format(direction == "noise" and "corrupt" or "clean", metric)]:item(), 1e-4, name .. ": target")
end

local function test_case(label, folder, model_folder)
  if not loaded(folder .. "/case.json") then
    check.test("golden patching " .. label, function() check.skip("no " .. folder) end)
    return
  end
  local c = open_case(folder, model_folder)
  local names = {}
  for name in pairs(c.case.arrays) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    check.test(("golden patching %s: %s"):format(label, name), function() check_array(c, name, c.case.arrays[name]) end)
  end
  check.test("golden patching " .. label .. ": every array was looked at", function()
    for name in pairs(c.expected) do check.ok(c.case.arrays[name], name .. " is in the file and not in the case") end
  end)
end

test_case("gpt2", data .. "/patching/gpt2", data .. "/models/gpt2")
test_case("llama", data .. "/patching/llama", data .. "/models/llama")
test_case("stories260K", shared .. "/golden/techniques/patching/stories260K", shared .. "/models/stories260K")
