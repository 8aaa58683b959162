-- The sites of single experts, from Lua (golden model mixtral). Numbers and rules are tested in tests/c/test_experts.c.
local pb, check = require "patchbay", require "patchbay.check"

local function fixture()
  local ok, model = pcall(pb.load, (check.environment "PB_SHARED" or "../shared") .. "/golden/models/mixtral")
  if not ok then check.skip "no shared golden model mixtral" end
  local run = model:run { 5, 9, 33, 20, 7, 41 }
  return model, run, model:run { 8, 9, 12, 50, 7, 30 }
end

local metric = pb.metric.logit_diff(3, 8)

check.test("experts: names, axes and what lists them", function()
  local model, run = fixture()
  local count = 0
  for _, name in ipairs(model:sites()) do
    if name:find "mlp%.experts%." then
      count = count + 1
      check.eq(run[name].shape, { 6, model:site(name).width }, name)
    end
  end
  check.eq(count, 2 * 4 * 3)
  local site = model:site "blocks.1.mlp.experts.2.hook_post"
  check.eq({ site.name, site.layer, site.expert, site.axes }, { "experts.2.post", 1, 2, { "pos", "neuron" } })
  check.eq(run:value("experts.2.post", 1), run["blocks.1.mlp.experts.2.hook_post"])
  check.raises(function() return run["blocks.1.mlp.experts.9.hook_post"] end, "experts 0 to 3")
  check.raises(function() return run:value("experts.post", 1) end, "say which")
end)

check.test("experts: rows that were not chosen are zeros, and their gradient is", function()
  local _, run = fixture()
  local indices, grads = run["blocks.1.mlp.hook_expert_indices"], run:grad(metric, { "experts.0.post", "experts.1.pre" })
  local seen = { [true] = 0, [false] = 0 }
  for e = 0, 3 do
    local post, gradient = run:value(("experts.%d.post"):format(e), 1), grads:value(("experts.%d.post"):format(e), 1)
    for pos = 0, 5 do
      local chosen = indices:get(pos, 0) == e or indices:get(pos, 1) == e
      seen[chosen] = seen[chosen] + 1
      check.eq(post:select(0, pos):abs():max() > 0, chosen)
      if not chosen then check.eq(gradient:select(0, pos):abs():max(), 0.0) end
    end
  end
  check.eq({ seen[true], seen[false] }, { 12, 12 })
  for _, name in ipairs(run:grad(metric).sites) do check.ok(not name:find "experts%.", name .. " is given without being asked for") end
end)

check.test("experts: patches by layer, sweeps, and what nothing reads", function()
  local _, run, other = fixture()
  local indices = run["blocks.1.mlp.hook_expert_indices"]
  local expert = math.tointeger(indices:get(5, 0))
  local site = ("experts.%d.post"):format(expert)
  local one = run:measure({ { { site = site, layer = 1, pos = 5, value = 0 } } }, metric):get(0)
  check.ok(one ~= metric(run))
  check.eq(run:patched({ { site = site, layer = { 1 }, pos = 5, value = 0 } }):value(site, 1):select(0, 5):abs():max(), 0.0)
  local grid = run:sweep { site = site, from = other, over = { "layer", "pos" }, metric = metric }
  check.eq(grid.values.shape, { 2, 6 })
  for pos = 0, 5 do
    local chosen = indices:get(pos, 0) == expert or indices:get(pos, 1) == expert
    if not chosen then check.eq(grid.values:get(1, pos), metric(run), "nothing reads pos " .. pos) end
  end
  local absent = 0
  while indices:get(5, 0) == absent or indices:get(5, 1) == absent do absent = absent + 1 end
  local variant = { { { site = ("experts.%d.post"):format(absent), layer = 1, pos = 5, value = 1 } } }
  check.raises(function() run:measure(variant, metric) end, "nothing reads the patch")
  check.eq(run:measure(variant, metric, { allow_unread = true }):get(0), metric(run))
end)
