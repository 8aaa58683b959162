-- Attribution: every array of golden/techniques/attribution, and what must hold whatever the model.
local pb, check = require "patchbay", require "patchbay.check"
local attribution, integrated, cells = require "patchbay.attribution", require "patchbay.integrated", require "patchbay.cells"

local data = (check.environment "PB_TEST_DATA" or "tests") .. "/golden/techniques"

local function largest(got, wanted, name)
  check.eq(got.shape, wanted.shape, name)
  return got:max_difference(wanted)
end

-- ---- golden --------------------------------------------------------------------------------------------------------------

local SITES = { embed = "embed", post = "mlp_post" }
local RENAMED = { kv_head = "head" }

local function open_case(folder, model_folder)
  local case, model = pb.read(folder .. "/case.json"), pb.load(model_folder)
  local inputs = case.inputs
  local set = pb.pairs(model, { { clean = inputs.clean, corrupt = inputs.corrupt, answer = inputs.answer, wrong = inputs.wrong } })
  return { case = case, expected = pb.read(folder .. "/expected.safetensors"), model = model, set = set }
end

local function axes_of(names, skip)
  local axes = {}
  for i = 1 + (skip or 0), #names do axes[#axes + 1] = RENAMED[names[i]] or names[i] end
  return axes
end

local function stacked(grids)
  local list = {}
  for i, grid in ipairs(grids) do list[i] = grid.values end
  return pb.stack(list)
end

local function by_layer(c, site)
  local run, list = c.set[1].clean, {}
  local grads = run:grad(c.set:metric("logit_diff", 1), site)
  for layer = 0, c.model.layers - 1 do list[layer + 1] = grads:value(site, layer) end
  local all = pb.stack(list)
  if site == "attn_scores" then -- the golden has zeros above the diagonal
    local n = #run
    for dest = 0, n - 1 do
      for src = dest + 1, n - 1 do all:select(3, src):select(2, dest):fill_(0) end
    end
  end
  return all
end

local compute = {} -- by the first part of an array's name
function compute.base(c, name)
  local side, metric = name:match "^base%.(%w+)%.([%w_]+)$"
  return c.set:measure(metric, side)
end
local function estimate(direction)
  return function(c, name, about)
    local site = name:match "^%w+%.([%w_]+)"
    return attribution.patching(c.set, { site = SITES[site] or site, over = axes_of(about.axes), direction = direction }).values
  end
end
compute.noise, compute.denoise, compute.tl4 = estimate "noising", estimate "denoising", estimate "denoising"
function compute.grad_x_input(c, name, about)
  return attribution.gradient_x_input(c.set, { site = name:match "^[%w_]+%.([%w_]+)", over = axes_of(about.axes) }).values
end
function compute.grad(c, name)
  local site = name:match "^grad%.clean%.([%w_]+)"
  return by_layer(c, site == "scores" and "attn_scores" or site)
end
function compute.ig(c, name)
  local rule, steps = name:match "^ig%.(%w+)%.(%d+)$"
  return attribution.integrated(c.set, { over = "pos", rule = rule, steps = math.tointeger(steps) }).values
end
function compute.qkfix(c, name, about)
  local site = name:match "%.(%w)$"
  return attribution.patching(c.set, { site = site, over = axes_of(about.axes), direction = "noising", qk_fix = true, query_heads = site == "k" }).values
end
function compute.graddrop(c, name, about)
  local fixed, site = name:find "qkfix" ~= nil, name:match "([%w_]+)$"
  return stacked(attribution.graddrop(c.set, { site = site, over = axes_of(about.axes, 1), qk_fix = fixed, query_heads = fixed and site == "k" }))
end
function compute.atpstar(c, name, about)
  local site = name:match "([%w_]+)$"
  return attribution.star(c.set, { site = site, over = axes_of(about.axes), query_heads = site == "k" }).values
end

local ELSEWHERE = { ["tl4.edges"] = "edges: tests of eap" }

for _, label in ipairs { "gpt2", "llama" } do
  local c = open_case(data .. "/attribution/" .. label, data .. "/models/" .. label)
  local names = {}
  for name in pairs(c.expected) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    check.test(("golden attribution %s: %s"):format(label, name), function()
      if ELSEWHERE[name] then check.skip(ELSEWHERE[name]) end
      local about = c.case.arrays[name]
      local gap = largest(compute[name:match "^[%w_]-%f[.]"](c, name, about), c.expected[name], name)
      check.ok(gap <= about.tolerance, ("differs by %.3g, tolerance %.3g"):format(gap, about.tolerance))
    end)
  end
end

-- ---- identities ----------------------------------------------------------------------------------------------------------

for _, label in ipairs { "gpt2", "llama" } do
  local c = open_case(data .. "/attribution/" .. label, data .. "/models/" .. label)
  local set, model = c.set, c.model
  local last = model.layers - 1
  local function test(text, fn) check.test(("attribution %s: %s"):format(label, text), fn) end

  test("on a linear path the estimate is the exact effect, entry by entry and in sum", function()
    -- ln_final.hook_normalized reaches the logits by a matrix; logit_diff is linear in them.
    local linear = attribution.patching(set, { site = "ln_final.hook_normalized", over = { "pos", "neuron" } })
    local exact = set:sweep { site = "ln_final.hook_normalized", over = { "pos", "neuron" }, metric = "logit_diff" }:change()
    check.close(linear.values, exact.values, 2e-5)
    check.close(linear.values:sum(), linear.target, 1e-4, "all of it together is the whole change")
    -- so do the heads of the last layer's pattern and values, with everything after them held
    local held = set[1].corrupt:patched { { site = "ln_final.hook_scale", from = set[1].corrupt }, { site = "mlp_out", layer = last, from = set[1].corrupt } }
    local one = { clean = set[1].clean, corrupt = held, answer = c.case.inputs.answer, wrong = c.case.inputs.wrong }
    local frozen = pb.pairs(model, { one })
    local estimates = attribution.patching(frozen, { site = "z", over = { "layer", "head" }, layer = { last } })
    local effects = frozen:sweep { site = "z", over = { "layer", "head" }, layer = { last }, metric = "logit_diff" }:change()
    check.close(estimates.values, effects.values, 2e-5)
    local together = held:measure({ { { site = "z", layer = last, from = set[1].clean } } }, set:metric("logit_diff", 1)):item() - estimates.base
    check.close(estimates.values:sum() + set:metric("logit_diff", 1)(held), together, 5e-5, "the sum is the effect of all together")
  end)

  test("integrated gradients are complete, and say how far", function()
    local errors = {}
    for _, steps in ipairs { 10, 40, 160 } do
      local grid, list = attribution.integrated(set, { over = "pos", steps = steps, rule = "midpoint" })
      local whole = set:measure("logit_diff", "clean"):item() - set:measure("logit_diff", "corrupt"):item()
      check.close(list[1].difference, whole, 1e-4)
      check.close(grid.values:sum(), list[1].sum, 1e-4)
      check.close(list[1].error, list[1].sum - list[1].difference, 1e-9)
      errors[#errors + 1] = math.abs(list[1].error)
      check.ok(grid.about.completeness:find "at most")
    end
    check.ok(errors[3] < 2e-3 and errors[3] < errors[1], ("errors %g %g %g"):format(errors[1], errors[2], errors[3]))
    for baseline, site in pairs { zero = "mlp_out", mean = "resid_pre" } do -- a stream of zeros is where norms jump
      local _, list = attribution.integrated(set, { site = site, over = { "layer", "pos" }, layer = { 1, 2 }, baseline = baseline, steps = 60 })
      check.eq(#list, 2)
      for _, entry in ipairs(list) do
        check.ok(math.abs(entry.error) < 0.05 * math.max(1, math.abs(entry.difference)), ("%s, layer %d: %g of %g"):format(baseline, entry.layer, entry.error, entry.difference))
      end
    end
  end)

  test("a small move: the estimate tends to the effect", function()
    -- The other run is this one, with the embedding moved a little: what is left is of second order.
    local run, metric = set[1].clean, set:metric("logit_diff", 1)
    local away, gaps = pb.randn { #run, model.d_model, seed = 5, draw = 1 }, {}
    for k, size in ipairs { 0.02, 0.01 } do
      local moved = run:patched { { site = "embed", add = away * size } }
      local one = pb.pairs(model, { { clean = moved, corrupt = run, answer = c.case.inputs.answer, wrong = c.case.inputs.wrong } })
      local estimate = attribution.patching(one, { site = "embed", over = "pos" }).values:sum()
      gaps[k] = math.abs(estimate - (metric(moved) - metric(run)))
      check.ok(gaps[k] < 0.2 * math.abs(estimate) + 1e-3, ("%g against %g"):format(estimate, metric(moved) - metric(run)))
    end
    check.ok(gaps[2] < 0.5 * gaps[1] + 1e-5, ("%g, %g"):format(gaps[1], gaps[2]))
  end)

  test("the QK fix moves the pattern as a patch of one position does", function()
    local base, other = set[1].corrupt, set[1].clean
    local layer, metric = 1, set:metric("logit_diff", 1)
    local gradient, own = base:grad(metric, { { site = "pattern", layer = layer } }):value("pattern", layer), base:value("pattern", layer)
    for _, site in ipairs { "q", "k" } do
      local fixed = attribution.patching(set, { site = site, over = { "layer", "pos", "head" }, layer = { layer }, qk_fix = true }).values:select(0, 0)
      for pos = 0, #base - 1 do
        for head = 0, model:site(site).heads - 1 do
          local patched = base:capture({ { { site = site, layer = layer, pos = pos, head = head, from = other } } },
                                       ("blocks.%d.attn.hook_pattern"):format(layer), { allow_unread = true })[1]
          local pattern = patched[("blocks.%d.attn.hook_pattern"):format(layer)]
          check.close(fixed:get(pos, head), ((pattern - own) * gradient):sum(), 1e-4, ("%s, pos %d, head %d"):format(site, pos, head))
        end
      end
    end
  end)

  test("summed axes, groups, fixed coordinates and order of axes", function()
    local all = attribution.patching(set, { site = "z", over = { "layer", "pos", "head", "neuron" } }).values
    local function close(o, wanted, note)
      o.site = "z"
      check.close(attribution.patching(set, o).values, wanted, 1e-5, note)
    end
    close({}, all:sum(3):sum(1), "layer and head by default")
    close({ over = { "head", "layer" } }, all:sum(3):sum(1):transpose(0, 1):contiguous())
    close({ over = { "head" }, layer = "all" }, all:sum(3):sum(1):sum(0))
    close({ over = { "head" }, layer = { 0, -1 } }, all:sum(3):sum(1):index(0, { 0, 2 }):sum(0))
    close({ over = { "layer", "pos" }, head = { 1, 3 } }, all:sum(3):index(2, { 1, 3 }):sum(2))
    close({ over = { "layer", "head" }, pos = -1, neuron = { 0, 5 } }, all:select(1, 6):index(2, { 0, 5 }):sum(2))
    close({ over = { "pos" }, layer = 1, pos = { { name = "two", 1, 2 }, 4 } },
          pb.stack({ all:select(0, 1):sum(2):sum(1):narrow(0, 1, 2):sum(0, true), all:select(0, 1):sum(2):sum(1):narrow(0, 4, 1) }):reshape(2))
    close({ over = { "layer", "head" }, layer = { { 0, 1 }, 2 } }, pb.stack { all:sum(3):sum(1):narrow(0, 0, 2):sum(0), all:sum(3):sum(1):select(0, 2) })
    check.eq(attribution.patching(set, { site = "blocks.2.hook_resid_post", over = "pos" }).axes, { "pos" })
    check.close(attribution.patching(set, { site = "attn_scores", over = { "layer", "head", "dest", "src" } }).values:nonfinite(), 0)
  end)

  test("every: the same grids from one pass", function()
    local list = attribution.every(set, { "resid_pre", { site = "q", over = { "layer", "pos", "head" } }, { site = "mlp_post" } }, { qk_fix = true })
    check.eq(#list, 3)
    check.eq(list[1].values, attribution.patching(set, { site = "resid_pre" }).values)
    check.eq(list[2].values, attribution.patching(set, { site = "q", over = { "layer", "pos", "head" }, qk_fix = true }).values)
    check.eq(list[3].axes, { "layer", "neuron" })
  end)
end

check.test("attribution: one key of a row moved, where attention is saturated and where it is not", function()
  -- Rows that give nearly all weight to one key: the pattern's slope is nearly 0, and the patch changes all.
  local own = pb.tensor { { { 0, -math.huge, -math.huge }, { 18, 0, -math.huge }, { 3, 45, 1 } }, { { 5, -math.huge, -math.huge }, { 0, 1, -math.huge }, { 0, 80, 0 } } }
  local move = pb.tensor { { { 7, 0, 0 }, { -40, 30, 0 }, { 60, -50, 2 } }, { { 0, 0, 0 }, { 0.5, -1, 0 }, { 1, -200, 90 } } }
  local g = pb.randn { 2, 3, 3, seed = 8, draw = 0 }
  local pattern = own:softmax()
  local base = { value = function(_, site) return site == "pattern" and pattern or own end,
                 capture = function() return { { ["blocks.0.attn.hook_pattern"] = pattern, ["blocks.0.attn.hook_attn_scores"] = own + move } } end }
  local effects = require("patchbay.atp").fixed(base, nil, { value = function() return g end }, { info = { name = "k", heads = 2 } }, 0)
  check.eq(effects:nonfinite(), 0)
  for head = 0, 1 do
    for src = 0, 2 do
      local only = pb.zeros(2, 3, 3)
      only:select(2, src):copy_(move:select(2, src))
      local patched = (own + only):softmax() - pattern
      check.close(effects:get(src, head, 0), (patched * g):select(0, head):sum(), 2e-5, ("head %d, key %d"):format(head, src))
    end
  end
end)

check.test("attribution: points and weights of the rules integrate polynomials", function()
  local function integral(rule, n, power)
    local sum = 0
    for _, point in ipairs(integrated.points(rule, n)) do sum = sum + point[2] * (power == 0 and 1 or point[1] ^ power) end
    return sum
  end
  for _, rule in ipairs { "left", "midpoint", "right", "trapezoid", "gauss" } do
    check.close(integral(rule, 7, 0), 1, 1e-6, rule)
    check.close(integral(rule, 2000 // (rule == "gauss" and 100 or 1), 2), 1 / 3, 1e-3, rule)
  end
  check.close(integral("midpoint", 3, 1), 1 / 2, 1e-9)
  check.close(integral("trapezoid", 3, 1), 1 / 2, 1e-9)
  for power = 0, 9 do check.close(integral("gauss", 5, power), 1 / (power + 1), 1e-6, "degree " .. power) end
  check.raises(function() integrated.points("simpson", 3) end, "left, midpoint, right, trapezoid, gauss")
  check.raises(function() integrated.points("trapezoid", 1) end, "2 steps")
end)

-- ---- sets ----------------------------------------------------------------------------------------------------------------

local model = pb.load "facts"
local set = pb.pairs(model, {
  { clean = "When Mary and John went to the store, John gave a drink to", corrupt = "When Mary and John went to the store, Mary gave a drink to", answer = " Mary", wrong = " John",
    positions = { s2 = 10 } },
  { clean = "When Tom and Anna went to the park, Anna gave a ball to", corrupt = "When Tom and Anna went to the park, Tom gave a ball to", answer = " Tom", wrong = " Anna",
    positions = { s2 = 10 } },
})

check.test("attribution of a set: mean of its pairs, comparable with the exact sweep", function()
  local grid = attribution.patching(set, { site = "z", over = { "layer", "head" } })
  check.eq(#grid.parts, 2)
  check.eq(grid.kind, "change")
  check.close(grid.values, (grid.parts[1].values + grid.parts[2].values) / 2, 1e-6)
  local exact = set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff" }
  check.close(grid.target, exact:change().target, 1e-4)
  check.eq(grid.axes, exact.axes)
  check.eq(grid.labels, exact.labels)
  local difference = grid - exact:change()
  check.ok(difference.values:abs():max() < exact:change().values:abs():max())
  check.close(grid:recovered().values, grid.values / grid.target, 1e-5)
  for i = 1, 2 do
    local own = attribution.patching({ clean = set[i].clean, corrupt = set[i].corrupt }, { site = "z", metric = set:metric("logit_diff", i) })
    check.close(own.values, grid.parts[i].values, 1e-6)
  end
end)

check.test("attribution of a set: named positions", function()
  local grid = attribution.patching(set, { site = "resid_pre", over = { "layer", "pos" }, pos = { "s2", "end" } })
  check.eq(grid.labels.pos, { "s2", "end" })
  local one = attribution.patching(set, { site = "resid_pre", over = { "layer", "pos" }, pos = { 10, -1 } })
  check.eq(grid.values, one.values)
  check.ok(grid:figure():text():find "attribution patching" or true)
end)

check.test("attribution: what is refused, with the reason", function()
  local function refused(o, ...)
    local texts = { ... }
    check.raises(function() attribution.patching(set, o) end, table.unpack(texts))
  end
  refused({}, "site is missing")
  refused({ site = "zz" }, "zz")
  refused({ site = "resid_pre", over = { "layer", "head" } }, "has no head axis; it has pos, neuron")
  refused({ site = "embed", over = { "layer", "pos" } }, "has no layer axis")
  refused({ site = "resid_pre", over = { "pos" } }, "is in every layer")
  refused({ site = "resid_pre", over = { "pos" }, layer = 99 }, "layer 99 is not in a model of")
  refused({ site = "resid_pre", over = { "layer", "pos" }, head = 1 }, "has no head axis")
  refused({ site = "resid_pre", metric = "rank" }, "no derivative")
  refused({ site = "resid_pre", metric = "logit_dif" }, "logit_diff")
  refused({ site = "resid_pre", direction = "denoise" }, "denoising")
  refused({ site = "resid_pre", pos = { "subject" } , over = { "layer", "pos" } }, "has no position 'subject'")
  refused({ site = "resid_pre", sites = 1 }, "site")
  refused({ site = "q", query_heads = true, qk_fix = true }, "query_heads is for site")
  local ragged = pb.pairs(model, { { clean = { 5, 6, 7 }, corrupt = { 5, 8, 7 }, answer = 1, wrong = 2 },
                                   { clean = { 5, 6, 7, 9 }, corrupt = { 5, 8, 7, 9 }, answer = 1, wrong = 2 } })
  check.raises(function() attribution.patching(ragged, { site = "resid_pre", over = { "layer", "pos" }, pos = "all" }) end, "have different lengths")
  check.eq(attribution.patching(ragged, { site = "resid_pre", over = { "layer", "pos" }, pos = { "end" } }).values.shape, { model.layers, 1 })
  check.raises(function() attribution.patching({}, { site = "z" }) end, "must be a set of pairs")
  check.raises(function() attribution.every(set, {}) end, "needs a list of sites")
  check.raises(function() attribution.integrated(set, { site = "pattern", over = { "layer", "head" } }) end, "has no positions of its own")
  check.raises(function() attribution.integrated(set, { baseline = "nought" }) end, "other, zero, mean")
  check.raises(function() attribution.integrated(set, { steps = 0 }) end, "steps must be a positive integer")
end)
