-- Ablation against arrays computed from its definition, and its identities.
local pb, check = require "patchbay", require "patchbay.check"
local ablate, data = require "patchbay.ablate", require "patchbay.data"

local golden = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques"
local case, expected = pb.read(golden .. "/ablation/gpt2/case.json"), pb.read(golden .. "/ablation/gpt2/expected.safetensors")
local inputs = case.inputs
local model = pb.load(golden .. "/models/gpt2")
local set = pb.pairs(model, { { clean = inputs.clean, corrupt = inputs.corrupt, answer = inputs.answer, wrong = inputs.wrong } })

local function compare(name, got)
  local wanted, tolerance, worst = expected[name], case.arrays[name].tolerance, 0
  check.eq(got.shape, wanted.shape, name)
  local flat = wanted:tolist()
  for i, x in ipairs(got:tolist()) do
    local gap = math.abs(x - flat[i])
    if not (gap <= worst) then worst = gap end
  end
  check.ok(worst <= tolerance, ("%s differs by %.3g, tolerance %.3g"):format(name, worst, tolerance))
end

-- "mean_all.head_by_pos" -> what to call with what
local SITES = { head = "z", mlp = "mlp_out", attn_out = "attn_out", head_by_pos = "z", mlp_by_pos = "mlp_out", neuron = "mlp_post" }

local function options_of(how)
  local donor = tonumber(how:match "^resample_(%d)$")
  if donor then return "resample", { data = { inputs.data[donor + 1] } } end
  if how == "zero" then return "zero", {} end
  return "mean", { data = inputs.data, positions = how == "mean" and "each" or "all" }
end

for name, about in pairs(case.arrays) do
  check.test("golden ablation: " .. name, function()
    local run, base_metric = name:match "^base%.(%w+)%.([%w_]+)$"
    if run then
      check.close(set:measure(base_metric, run):get(0), expected[name]:item(), about.tolerance)
      return
    end
    if name == "mean.z" then
      local means = ablate.means(model, inputs.data, "z", { batch = 4 })
      compare(name, pb.stack(means))
      return
    elseif name == "mean_all.mlp_out" then
      compare(name, pb.stack(ablate.means(model, inputs.data, "mlp_out", { positions = "all", batch = 1 })):squeeze(1))
      return
    end
    local how, what, metric = name:match "^([%w_]-)%.([%w_]+)%.?([%w_]*)$"
    local kind, o = options_of(how)
    o.metric = metric ~= "" and metric or "logit_diff"
    if what == "group" then
      local group = {}
      for i, head in ipairs(inputs.group) do group[i] = { site = "z", layer = head[1], head = head[2] } end
      o.kind = kind
      compare(name, ablate.groups(set, { group }, o).values)
    else
      o.site, o.over = SITES[what] or check.ok(false, "an array that nobody knows: " .. name), about.axes
      compare(name, ablate[kind](set, o).values)
    end
  end)
end

-- ---- identities ------------------------------------------------------------------------------------------------------------------

local facts = pb.load "facts"
local pairs_ = data.facts(facts, "facts", { n = 12, seed = 2, quiet = true }):pairs { seed = 1, quiet = true }
local ioi = data.pairs(facts, "ioi", { n = 30, seed = 1, quiet = true }):filter(function(pair) return #pair.clean == 15 end)

check.test("ablate: everything replaced by another prompt's values is that prompt", function()
  local donor = model:run(inputs.data[1])
  local all = { { site = "hook_embed" }, { site = "hook_pos_embed" } }
  for layer = 0, model.layers - 1 do
    for _, site in ipairs { "attn_out", "mlp_out" } do all[#all + 1] = { site = site, layer = layer } end
  end
  local grid = ablate.groups(set, { all }, { kind = "resample", data = { donor } })
  check.close(grid.values:get(0), pb.metric.logit_diff(inputs.answer, inputs.wrong)(donor), 1e-5)
end)

check.test("ablate: a group of one is the cell; nothing ablated is the base", function()
  local grid = ablate.mean(set, { data = inputs.data })
  local one = ablate.groups(set, { { { site = "z", layer = 1, head = 2 } }, {} }, { kind = "mean", data = inputs.data })
  check.eq(one.values:get(0), grid:get { layer = 1, head = 2 })
  check.eq(one.values:get(1), one.base)
  check.eq(one.base, set:measure("logit_diff"):get(0))
end)

check.test("ablate: the mean of equal prompts changes nothing", function()
  local same = { inputs.clean, inputs.clean, inputs.clean }
  local grid = ablate.mean(set, { data = same, site = "mlp_out" })
  for _, value in ipairs(grid.values:tolist()) do check.close(value, grid.base, 1e-4) end
end)

check.test("ablate: means do not depend on batches", function()
  local whole = ablate.means(facts, ioi, "z", { positions = "all" })
  for _, batch in ipairs { 1, 3 } do
    for layer, mean in ipairs(ablate.means(facts, ioi, "z", { positions = "all", batch = batch })) do
      check.close(mean, whole[layer], 1e-5, "layer " .. layer)
    end
  end
end)

check.test("ablate: prompts of different length use means over positions; named positions work", function()
  local grid = ablate.mean(pairs_, { site = "mlp_out", metric = "logit_diff" })
  check.eq(grid.axes, { "layer" })
  check.ok(grid:change():get { layer = 0 } < -1, "without the first MLP the facts are gone")
  local by_pos = ablate.mean(pairs_, { site = "mlp_out", over = { "layer", "pos" }, pos = { "subject_last", "end" } })
  check.eq(by_pos.labels.pos, { "subject_last", "end" })
  check.ok(by_pos:change():get { layer = 0, pos = "subject_last" } < by_pos:change():get { layer = 0, pos = "end" })
end)

check.test("ablate: head 2.3 matters most for the indirect object, as the README says", function()
  local rows = ablate.leave_one_out(ioi, { kind = "resample", draws = 2, seed = 1 })
  local heads = {}
  for _, row in ipairs(rows) do
    if row.head then heads[#heads + 1] = row.name end
  end
  check.eq(heads[1], "2.3", tostring(rows))
  check.ok(rows[1].change < 0 and #rows == 6 * 5)
end)

check.test("ablate: curves begin at the base and end with all of the order", function()
  local order = { { site = "z", layer = 2, head = 3, name = "2.3" }, { site = "z", layer = 4, head = 3, name = "4.3" } }
  local curve = ablate.curve(ioi, { order = order, kind = "mean" })
  local both = ablate.groups(ioi, { order }, { kind = "mean" })
  check.eq(curve.labels.group, { "nothing", "+ 2.3", "+ 4.3" })
  check.close(curve.values:get(0), curve.base, 1e-6)
  check.eq(curve.values:get(2), both.values:get(0))
end)

check.test("ablate: the leave-one-out table is sorted by size, and each row is the component's own ablation", function()
  local rows = ablate.leave_one_out(ioi, { kind = "mean" })
  check.eq(#rows, ioi.model.layers * (ioi.model.heads + 1))
  for i = 2, #rows do check.ok(math.abs(rows[i].change) <= math.abs(rows[i - 1].change), "row " .. i) end
  local grid = ablate.mean(ioi)
  for _, row in ipairs(rows) do
    if row.head then check.close(row.value, (grid:get { layer = row.layer, head = row.head }), 1e-4, row.name) end
    check.close(row.value - rows.base, row.change, 1e-4)
  end
  local text = tostring(rows)
  check.ok(text:find("^without +metric +change +± se\n%(nothing%)") and text:find("\n" .. rows[1].name:gsub("%p", "%%%0")), text)
end)

check.test("ablate: bad input is told", function()
  check.raises(function() ablate.mean(pairs_, { positions = "each" }) end, "no mean position by position")
  check.raises(function() ablate.means(model, {}, "z") end, "empty")
  check.raises(function() ablate.means(model, inputs.data, "pattern") end, "pattern")
  check.raises(function() ablate.zero(set, { over = { "layer", "dest" } }) end, "must be one of layer, pos, head, neuron")
  check.raises(function() ablate.resample(set, { data = { { 1, 2, 3 } } }) end, "7 tokens")
  check.raises(function() ablate.mean(set, { data = { { 1, 2, 3 } } }) end, "3 tokens", "7")
  check.raises(function() ablate.groups(set, { {} }, { kind = "means" }) end, "did you mean 'mean'")
  check.raises(function() ablate.groups(set, { { { site = "z", layer = 1, heed = 2 } } }, { kind = "zero" }) end, "group 1, place 1", "did you mean 'head'")
  check.raises(function() ablate.groups(set, {}, { kind = "zero" }) end, "list of groups")
  check.raises(function() ablate.zero(set, { metrik = "prob" }) end, "did you mean 'metric'")
  check.raises(function() ablate.zero("x") end, "set of pairs")
end)
