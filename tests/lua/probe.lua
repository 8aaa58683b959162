-- Probes against what they must find, and the statistics of pb.stats against numbers worked out by hand.
local pb, check = require "patchbay", require "patchbay.check"
local probe, tasks = require "patchbay.probe", require "patchbay.tasks"

local model = pb.load "facts"

-- Two clouds far apart along one direction of eight, and what does not tell them apart.
local function clouds(n, gap)
  local x, labels = pb.randn { n, 8, seed = 5 }, {}
  for i = 1, n do
    labels[i] = i % 2 + 1
    x:set(i - 1, 3, x:get(i - 1, 3) + (labels[i] == 1 and gap or -gap))
  end
  return x, labels
end

for _, method in ipairs { "linear", "logistic" } do
  check.test(("probe %s: finds the direction that separates two clouds"):format(method), function()
    local x, labels = clouds(60, 6)
    local fitted = probe.fit(x, labels, 2, method)
    local best = fitted.scores(x):argmax(1):tolist()
    for i, class in ipairs(best) do check.eq(math.tointeger(class) + 1, labels[i], "example " .. i) end
    local w = fitted.W:select(1, 0) - fitted.W:select(1, 1)
    check.ok(w:get(3) / w:norm() > 0.9, "the weights do not point along the direction")
    check.close(fitted.scores(x), (x - fitted.mean):matmul(fitted.W) + fitted.b, 1e-5)
  end)

  check.test(("probe %s: more of a label's own copy, on the stream at the token itself, than anywhere before"):format(method), function()
    local set = tasks.agreement(model, { n = 24, seed = 3 })
    local function number(pair, i, side) -- 1: singular
      local answer = side == "clean" and pair.answer[1] or pair.wrong[1]
      return (answer == model:token " is" or answer == model:token " was") and 1 or 2
    end
    local grid, report = probe[method](set, { label = number, side = "both", pos = { "subject", "end" }, layer = { 0, 5 } })
    check.eq(grid.axes, { "layer", "pos" })
    check.eq({ report.examples, #report.classes, report.left_out, report.chance }, { 48, 2, 0, 0.5 })
    check.ok((grid:get { layer = 5, pos = "end" }) > 0.9, "the last layer at the end knows the number of the verb")
    check.close((grid:get { layer = 0, pos = "end" }), 0.5, 0.05, "the embedding of the attractor cannot know it: chance, and not less")
    local again = probe[method](set, { label = number, side = "both", pos = { "subject", "end" }, layer = { 0, 5 } })
    check.eq(again.values, grid.values, "the same seed")
  end)
end

check.test("probe: ridge regression agrees with least squares worked out the other way round", function()
  local x, labels = clouds(20, 1)
  local fitted, ridge = probe.fit(x, labels, 2, "linear", 0.05), 0.05
  -- primal: (X'X + ridge n I) W = X'(Y - mean), X centred and scaled to mean length 1
  local centred = x - x:mean(0)
  centred = centred / (centred:square():sum() / 20) ^ 0.5
  local y = pb.zeros { 20, 2 }
  for i, label in ipairs(labels) do y:set(i - 1, label - 1, 1) end
  local xt = centred:transpose(0, 1):contiguous()
  local gram = xt:matmul(centred)
  for i = 0, 7 do gram:set(i, i, gram:get(i, i) + ridge * 20) end
  local W = gram:solve(xt:matmul(y - y:mean(0)))
  check.close(fitted.scores(x), centred:matmul(W) + y:mean(0), 1e-4)
end)

check.test("probe: logistic regression is at its minimum", function()
  local x, labels = clouds(30, 0.7)
  local ridge, fitted = 0.05, probe.fit(x, labels, 2, "logistic", 0.05)
  local centred = x - x:mean(0)
  local scale = (centred:square():sum() / 30) ^ 0.5
  local y = pb.zeros { 30, 2 }
  for i, label in ipairs(labels) do y:set(i - 1, label - 1, 1) end
  local residual = fitted.scores(x):softmax(1) - y
  local gradient = (centred / scale):transpose(0, 1):matmul(residual) / 30 + fitted.W * scale * ridge
  check.ok(gradient:abs():max() < 1e-3, ("the gradient is %g"):format(gradient:abs():max()))
end)

check.test("probe: a control task is easier where one token has one label, and selectivity is the difference", function()
  local set = tasks.agreement(model, { n = 24, seed = 3 })
  local s = probe.selectivity(set, { side = "both", pos = { "subject", "end" }, layer = { 0 } })
  check.close(s.selectivity.values, s.accuracy.values - s.control.values, 0)
  check.ok((s.control:get { layer = 0, pos = "end" }) > (s.accuracy:get { layer = 0, pos = "end" }), "the control task at the end is read off the token")
end)

check.test("probe: the causal check moves the answer with the probe's directions and not with random ones", function()
  local set = tasks.agreement(model, { n = 40, seed = 3 })
  local function number(pair, _, side)
    local answer = side == "clean" and pair.answer[1] or pair.wrong[1]
    return (answer == model:token " is" or answer == model:token " was") and 1 or 2
  end
  local found = probe.causal(set, { side = "both", label = number, layer = { 5 } })
  local cost = found.effect:change()
  check.eq(found.rank, 1)
  check.eq(cost.labels.direction, { "probe", "random" })
  local at_probe, at_random = (cost:get { direction = "probe", layer = 5 }), (cost:get { direction = "random", layer = 5 })
  check.ok(at_probe < -0.5 and at_probe < 3 * at_random, ("probe %g, random %g"):format(at_probe, at_random))
  check.ok(math.abs(at_random) < 0.5, "a random direction costs nothing")
  check.ok((found.accuracy:get { layer = 5, pos = "end" }) > 0.9)
end)

check.test("probe: errors say what was wrong", function()
  local set = tasks.agreement(model, { n = 4, seed = 3 })
  check.raises(function() probe.linear(set, { label = "colour" }) end, "pair 1 has no colour")
  check.raises(function() probe.linear(set, { folds = 1 }) end, "at least 2")
  check.raises(function() probe.linear(set, { label = function(_, i) return i end }) end, "at least two classes are needed")
  check.raises(function() probe.linear(set, { lable = "answer" }) end, "label")
  check.raises(function() probe.linear({}, {}) end, "must be a set of pairs")
  check.raises(function() probe.selectivity(set, { method = "forest" }) end, "method must be one of linear, logistic")
end)

-- ---- pb.stats -----------------------------------------------------------------------------------------------------------------------

check.test("stats: correlations of known numbers", function()
  check.close(pb.stats.correlation({ 1, 2, 3, 4, 5 }, { 2, 1, 4, 3, 5 }), 0.8, 1e-12)
  check.close(pb.stats.correlation({ 1, 2, 2, 3 }, { 1, 3, 2, 4 }), 0.9486832980505138, 1e-9, "equal values share their rank")
  check.close(pb.stats.correlation({ 1, 2, 3 }, { 1, 4, 9 }, "linear"), 0.9897433186107871, 1e-9)
  check.close(pb.stats.correlation({ 1, 2, 3 }, { 3, 2, 1 }), -1, 1e-12)
  check.ok(pb.stats.correlation({ 1, 1, 1 }, { 1, 2, 3 }) ~= pb.stats.correlation({ 1, 1, 1 }, { 1, 2, 3 }), "NaN where nothing varies")
  check.raises(function() pb.stats.correlation({ 1, 2 }, { 1, 2, 3 }) end, "one size, got 2 and 3")
end)

check.test("stats: a bootstrap interval is as wide as theory says, the same for the same seed, and of a grid's parts cell by cell", function()
  local values = pb.randn { 200, seed = 7 }
  local b = pb.stats.bootstrap(values, { seed = 1 })
  check.close(b.mean, values:mean(), 1e-6)
  local theory = (values - values:mean()):square():mean() ^ 0.5 / 200 ^ 0.5
  check.close(b.se, theory, 0.1 * theory)
  check.close({ b.low, b.high }, { b.mean - 1.96 * theory, b.mean + 1.96 * theory }, 0.25 * theory)
  check.eq(pb.stats.bootstrap(values, { seed = 1 }), b)
  local parts = {}
  for i = 1, 5 do parts[i] = pb.grid { values = pb.tensor { { i, 2.0 * i, 7 } }, axes = { "layer", "head" } } end
  local of_grid = pb.stats.bootstrap(pb.mean(parts), { seed = 1 })
  check.eq(of_grid.low.shape, { 1, 3 })
  check.close({ of_grid.low:get(0, 2), of_grid.high:get(0, 2), of_grid.se:get(0, 2) }, { 7.0, 7.0, 0.0 }, 1e-5)
  check.close(of_grid.low:get(0, 1), 2 * of_grid.low:get(0, 0), 1e-5)
  check.raises(function() pb.stats.bootstrap({ 1 }) end, "at least two values")
  check.raises(function() pb.stats.bootstrap({ 1, 2 }, { level = 95 }) end, "between 0 and 1")
end)

check.test("stats: attention is the mean of the patterns, by names where prompts differ in length", function()
  local set = tasks.ioi(model, { n = 3, seed = 1, template = 1 })
  local grid = pb.stats.attention(set, { heads = true })
  check.eq(grid.axes, { "layer", "head", "src" })
  local sum = 0
  for i = 1, 3 do sum = sum + set[i].clean:value("pattern", 2):get(3, #set[i].clean - 1, set[i].positions.S2) / 3 end
  local by_name = pb.stats.attention(set, { heads = true, dest = "end", src = { "S2" } })
  check.close((by_name:get { layer = 2, head = 3, src = "S2" }), sum, 1e-6)
  check.ok(sum > 0.8, "head 2.3 reads the second mention")
  local rows = pb.stats.attention(set)
  check.close(rows.values:sum(1), pb.ones { model.layers }, 1e-5, "rows sum to 1")
  check.close(rows.values, grid.values:mean(1), 1e-6)
end)
