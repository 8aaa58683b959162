-- Gradients: the object, patched runs, batches, weights, what is refused. The engine's numbers are tested in tests/c/test_grad.c.
local pb, check = require "patchbay", require "patchbay.check"

local data = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/"
local model = pb.load(data .. "techniques/models/gpt2")
local llama = pb.load(data .. "techniques/models/llama")
local clean = model:run { 70, 50, 5, 70, 30, 39, 46 }
local corrupt = clean:fork { 70, 50, 75, 70, 63, 39, 46 }
local metric = pb.metric.logit_diff(79, 30)

local function close(got, wanted, tolerance, note)
  check.eq(got.shape, wanted.shape, note)
  local gap = got:max_difference(wanted)
  check.ok(gap <= tolerance, ("%s: differs by %.3g, tolerance %.3g"):format(note or "tensors", gap, tolerance))
end

check.test("run:grad: indexed as a run is, shapes of the sites", function()
  local grads = clean:grad(metric)
  check.close(grads.measured, metric(clean))
  for _, site in ipairs(model:sites()) do check.eq(grads[site].shape, clean[site].shape, site) end
  check.eq(grads["blocks.1.attn.hook_z"], grads:value("z", 1))
  check.eq(grads:value("z", -1), grads:value("blocks.2.attn.hook_z"))
  check.eq(grads:value { site = "z", layer = 1, pos = { 2, -1 }, head = 3 }, grads:value("z", 1):index(0, { 2, 6 }):index(1, { 3 }))
  check.eq(grads[{ site = "pattern", layer = 0, head = 1, dest = -1 }], grads:value("pattern", 0):index(0, { 1 }):index(1, { 6 }))
  check.eq(grads.logits:get(6, 79), 1.0)
  check.eq(grads.logits:get(6, 30), -1.0)
  check.eq(grads.run, clean)
  check.eq(grads.metric, metric)
  check.ok(tostring(grads):find("gradients of logit_diff(79, 30) = 8.45", 1, true), tostring(grads))
end)

check.test("run:grad: stop ends the gradient at sites", function()
  local stop = { "attn_out", { site = "mlp_out", layer = 1 } }
  local stopped = clean:grad(metric, { "resid_pre", "attn_out" }, { stop = stop })
  local held = clean:patched({ { site = "attn_out", layer = { 0, 1, 2 }, from = clean }, { site = "mlp_out", layer = 1, from = clean } }):grad(metric, { "resid_pre", "attn_out" })
  for _, site in ipairs(held.sites) do check.eq(stopped[site], held[site], site) end
  check.eq(stopped.stop, { "blocks.0.hook_attn_out", "blocks.1.hook_attn_out", "blocks.2.hook_attn_out", "blocks.1.hook_mlp_out" })
  check.eq(stopped["blocks.0.attn.hook_z"]:abs():max(), 0.0, "asked for later, with the same stops")
  check.ok(clean:grad(metric, "z")["blocks.0.attn.hook_z"]:abs():max() > 0)
  check.eq(pb.grad({ { run = clean, metric = metric, sites = "resid_pre", stop = stop } })[1]:value("resid_pre", 0), stopped:value("resid_pre", 0))
  check.eq(clean:grad(metric, "z").stop, nil)
  check.raises(function() clean:grad(metric, "z", { stop = { "zz" } }) end, "zz")
  check.raises(function() clean:grad(metric, "z", { stop = { 3 } }) end, "name")
  check.raises(function() clean:grad(metric, "z", { stop = { { layer = 3 } } }) end, "name")
  check.raises(function() clean:grad(metric, "z", { stops = {} }) end, "did you mean 'stop'")
end)

check.test("run:grad: what is given is the caller's own", function()
  local grads = clean:grad(metric, "z")
  local before = grads:value("z", 0):clone()
  grads:value("z", 0):mul_(0)
  check.eq(grads:value("z", 0), before)
end)

check.test("run:grad: sites that are asked for, and others when they are read", function()
  local grads = clean:grad(metric, { "z", { site = "mlp_out", layer = -1 }, "blocks.0.hook_resid_pre" })
  check.eq(grads.sites, { "blocks.0.attn.hook_z", "blocks.0.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.2.attn.hook_z", "blocks.2.hook_mlp_out" })
  check.eq(grads["blocks.1.attn.hook_pattern"], clean:grad(metric, "pattern"):value("pattern", 1))
  check.eq(#grads.sites, 6)
  check.eq(#clean:grad(metric, {}).sites, 0)
end)

-- A step along the gradient changes the metric by its squared length, as far as it is linear.
check.test("run:grad: a step along each site's gradient does what it says", function()
  local causal = pb.zeros(7, 7)
  for dest = 0, 6 do
    for src = 0, dest do causal:set(dest, src, 1) end
  end
  for _, m in ipairs { model, llama } do
    local run = m:run { 70, 50, 5, 70, 30, 39, 46 }
    local grads = run:grad(metric, m:sites())
    for _, site in ipairs(m:sites()) do
      local g = grads[site]
      if site:find "pattern" then g = g * causal end -- masked entries have PyTorch's gradient, and no effect here
      local square = g:square():sum()
      local step = math.min(0.004 / (1e-9 + square), 0.01)
      if not site:find "scores" then -- masked scores are -inf: no step
        local two = run:measure({ { { site = site, add = g * step } }, { { site = site, add = g * -step } } }, metric, { allow_unread = true })
        local slope = (two:get(0) - two:get(1)) / (2 * step)
        check.close(slope, square, 0.02 * square + 2e-6 / step, m.family .. ", " .. site)
      end
    end
  end
end)

check.test("grads.zero: a site that the metric cannot reach has a zero gradient and a flag", function()
  local grads = clean:patched({ { site = "resid_pre", layer = 1, from = corrupt } }):grad(metric, { "resid_pre", "embed" })
  check.eq(grads.zero["blocks.0.hook_resid_pre"], true)
  check.eq(grads.zero["hook_embed"], true)
  check.eq(grads["hook_embed"], pb.zeros(7, 32))
  check.eq(grads.zero["blocks.1.hook_resid_pre"], false)
  local early = clean:grad(pb.metric.logit(3, { pos = 1 }))
  check.eq(early.zero["blocks.0.hook_resid_pre"], false)
  check.eq(early[{ site = "blocks.0.hook_resid_pre", pos = { 2, 3, 4, 5, 6 } }], pb.zeros(5, 32))
  check.raises(function() grads.zero.x = true end, "can only be read")
end)

check.test("gradients of a patched run: by what was put there", function()
  local add = pb.randn { 1, 32, seed = 3, draw = 0 } * 0.3
  local function patch(t) return { { site = "mlp_out", layer = 1, pos = 4, add = t } } end
  local g = clean:patched(patch(add)):grad(metric, "mlp_out"):value { site = "mlp_out", layer = 1, pos = 4 }
  local step = g * (0.002 / g:square():sum())
  local two = clean:measure({ patch(add + step), patch(add - step) }, metric)
  check.close(two:get(0) - two:get(1), 0.004, 1e-5)
  check.raises(function() clean:patched({ { site = "z", layer = 0, fn = function(act) return act end } }):grad(metric) end, "is a function")
end)

check.test("pb.grad: several runs, metrics and lengths at once", function()
  local short, other = model:run { 3, 1, 4 }, pb.metric.nll()
  local list = pb.grad { { run = clean, metric = metric, sites = "resid_pre" }, { run = short, metric = other, sites = { "z" }, weight = 2 },
                         { run = clean, patches = { { site = "z", layer = 0, zero = true } }, metric = other, sites = "resid_pre" } }
  close(list[1]:value("resid_pre", 0), clean:grad(metric):value("resid_pre", 0), 1e-6)
  close(list[2]:value("z", 1), short:grad(other):value("z", 1) * 2, 1e-6)
  close(list[3]:value("resid_pre", 1), clean:patched({ { site = "z", layer = 0, zero = true } }):grad(other):value("resid_pre", 1), 1e-6)
  check.close(list[2].measured, other(short))
  -- another site, later: of the same weighted metric
  close(list[2]:value("q", 1), short:grad(other):value("q", 1) * 2, 1e-6)
end)

check.test("gradients of weights: PyTorch's, by their names in the file", function()
  local own = pb.load(data .. "models/gpt2")
  local ids, expected = pb.read(data .. "models/gpt2/expected.safetensors")["p1.input_ids"], pb.read(data .. "models/gpt2/grads.safetensors")
  local list = {}
  for i, id in ipairs(ids:tolist()) do list[i] = math.tointeger(id) end
  local grads = own:run(list):grad(pb.metric.nll(), {}, { weights = true })
  check.close(grads.measured, expected["p1.loss"]:item(), 1e-5)
  for _, name in ipairs(own:weights()) do
    local wanted = expected["p1.wgrad." .. name]
    close(grads.weights[name], wanted, 1e-4 * wanted:abs():max(), name)
  end
end)

check.test("gradients of weights: summed over a batch, tied parts together", function()
  local short = model:run { 3, 1, 4 }
  local nll = pb.metric.nll()
  local _, both = pb.grad({ { run = clean, metric = nll, sites = {}, weight = 0.25 }, { run = short, metric = nll, sites = {} } }, { weights = true })
  local a, b = clean:grad(nll, {}, { weights = true }), short:grad(nll, {}, { weights = true })
  local count = 0
  for _, name in ipairs(model:weights()) do
    close(both[name], a.weights[name] * 0.25 + b.weights[name], 2e-6, name)
    check.eq(both[name].shape, model:weight(name).shape, name)
    count = count + 1
  end
  check.ok(count > 30)
  local one = clean:grad(nll, {}, { weights = { "transformer.h.1.attn.c_attn.weight" } }).weights
  check.eq(one["transformer.h.1.attn.c_attn.weight"], a.weights["transformer.h.1.attn.c_attn.weight"])
  check.eq(one["transformer.wte.weight"], nil)
  check.eq(clean:grad(nll, {}).weights, nil)
end)

check.test("gradients: what is refused, with the reason", function()
  check.raises(function() clean:grad(pb.metric.rank(3)) end, "metric rank has no derivative", "logit_diff")
  check.raises(function() clean:grad(pb.metric.fn(function() return 1 end)) end, "has no derivative")
  check.raises(function() clean:grad "logit_diff" end, "expected a metric")
  check.raises(function() clean:grad(metric, "reside_pre") end, "resid_pre")
  check.raises(function() clean:grad(metric, { { site = "z", layer = 9 } }) end, "layer 9", "0 to 2")
  check.raises(function() clean:grad(metric, { 3 }) end, "a site is given by its name")
  check.raises(function() return clean:grad(metric):value "z" end, "give the layer too")
  check.raises(function() return clean:grad(metric):value("embed", 1) end, "is not in a layer")
  check.raises(function() return clean:grad(metric)["blocks.1.hook_zz"] end, "hook_z")
  check.raises(function() return clean:grad(metric):value { site = "z", layer = 0, dest = 1 } end, "has no dest axis")
  check.raises(function() return clean:grad(metric):value { site = "z", layer = 0, pos = 9 } end, "9")
  check.raises(function() clean:grad(metric).x = 1 end, "can only be read")
  check.raises(function() clean:grad(metric, {}, { weights = { "nope" } }) end, "nope")
  check.raises(function() clean:grad(metric, {}, { weights = 3 }) end, "'weights' must be true (all) or a list of names")
  check.raises(function() clean:grad(metric, {}, { wieghts = true }) end, "weights")
  local processed = pb.load(data .. "techniques/models/gpt2", { fold_ln = true }):run { 1, 2, 3 }
  check.raises(function() processed:grad(metric, {}, { weights = true }) end, "weight processing")
  check.ok(processed:grad(metric, "z"):value("z", 0):abs():max() > 0)
  check.raises(function() pb.grad {} end, "the list is empty")
  check.raises(function() pb.grad { { run = clean } } end, "entry 1 of pb.grad: expected a metric")
  check.raises(function() pb.grad { { run = 3, metric = metric } } end, "run must be a run")
  check.raises(function() pb.grad { { run = clean, metric = metric }, { run = llama:run { 1, 2 }, metric = metric } } end, "of another model")
  check.raises(function() clean.grad(3, metric) end, "called with a colon")
end)

check.test("gradients: every failing allocation is an error that says so", function()
  local function use()
    local list, weights = pb.grad({ { run = clean, metric = metric, sites = { "z", "pattern" } }, { run = corrupt, metric = pb.metric.nll(), sites = {} } },
                                  { weights = { "transformer.h.1.mlp.c_fc.weight" } })
    return list[1]:value("z", 1), weights
  end
  check.ok(check.exhaust(use) >= 10)
end)

check.test("gradients: every failing allocation of Lua's own", function()
  local weak = setmetatable({}, { __mode = "k" })
  weak[{}] = true
  pb.zeros(1):close()
  if next(weak) == nil then check.skip "the collector is stressed" end
  check.ok(check.exhaust(function()
    local list = pb.grad({ { run = clean, metric = metric, sites = { "z" } } }, { weights = { "transformer.h.1.mlp.c_fc.weight" } })
    return list[1]:value("z", 1), list[1].zero["blocks.1.attn.hook_z"]
  end, "lua", 100000) >= 10)
end)
