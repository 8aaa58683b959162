-- Probes: can a linear classifier read a label off an activation? Ridge regression on one-hot labels ("linear") or multinomial logistic
-- regression, cross-validated; control tasks (Hewitt and Liang 2019) say how much of it the probe could have learnt by heart; and the
-- causal check says whether the model uses what the probe found. A probe alone shows that something is there, not that it matters.
local pb = require "patchbay"
local cells, classifier, examples = require "patchbay.cells", require "patchbay.classifier", require "patchbay.probe_examples"

local probe = { fit = classifier.fit }
local OPTIONS = { "seed", "layer", "pos", site = "resid_pre", label = "answer", side = "clean", folds = 5, ridge = 0.01, control = false }

-- The share of examples that a probe trained on the other folds gets right.
local function accuracy(x, labels, n_classes, fold, o, method)
  local right = 0
  for f = 1, o.folds do
    local train, test, of_train = {}, {}, {}
    for row, g in ipairs(fold) do table.insert(g == f and test or train, row - 1) end
    for j, row in ipairs(train) do of_train[j] = labels[row + 1] end
    if #test > 0 and #train > 0 then
      local best = probe.fit(x:index(0, train), of_train, n_classes, method, o.ridge).scores(x:index(0, test)):argmax(1):tolist()
      for j, class in ipairs(best) do right = right + (math.tointeger(class) + 1 == labels[test[j] + 1] and 1 or 0) end
    end
  end
  return right / #labels
end

local function sweep(method, set, given)
  local name = "probe." .. method
  local o = pb.options(given, OPTIONS, name)
  set, o.seed = cells.set(set, name), o.seed or pb.seed
  pb.one_of(o.side, { "clean", "corrupt", "both" }, name .. ": side")
  if math.type(o.folds) ~= "integer" or o.folds < 2 then pb.fail("%s: folds must be an integer of at least 2, got %s", name, tostring(o.folds)) end
  local list, classes, left_out = examples.of(set, o, name)
  if o.pos == nil then o.pos = cells.positions(set, name) end
  local grid_cells = cells.over(set, { site = o.site, over = { "layer", "pos" }, layer = o.layer, pos = o.pos })
  local labels, sizes, values = {}, {}, {}
  for i, example in ipairs(list) do labels[i], sizes[example.class] = example.class, (sizes[example.class] or 0) + 1 end
  for i, cell in ipairs(grid_cells) do
    local rows, of = {}, labels
    for j, example in ipairs(list) do rows[j] = examples.vector(set, example, o, cell.layer, cell.pos) end
    if o.control then of = examples.control(set, list, labels, cell.pos, o.seed) end
    values[i] = accuracy(pb.stack(rows), of, #classes, examples.folds(list, of, o.folds, o.seed), o, method)
  end
  local grid = pb.grid { values = pb.tensor(values):reshape(grid_cells.shape), axes = grid_cells.axes, coords = grid_cells.coords, labels = grid_cells.labels,
                         unit = o.control and "accuracy on the control task" or "probe accuracy", name = method .. " probe",
                         about = { model = set.model.name, site = o.site, examples = #list, classes = #classes, left_out = left_out, folds = o.folds } }
  return grid, { examples = #list, classes = classes, left_out = left_out, chance = math.max(table.unpack(sizes)) / #list }
end

-- probe.linear(set, { site =, label =, layer =, pos =, side =, folds = 5, ridge = 0.01, control =, seed = }) -> grid [layer, pos] of accuracies, report
function probe.linear(set, options) return sweep("linear", set, options) end
function probe.logistic(set, options) return sweep("logistic", set, options) end

-- probe.selectivity(set, { method = "linear", ... }) -> { accuracy =, control =, selectivity = } grids: accuracy minus that on the control task
function probe.selectivity(set, given)
  local o = {}
  for key, value in pairs(given or {}) do o[key] = value end
  local method = pb.one_of(o.method or "linear", { "linear", "logistic" }, "probe.selectivity: method")
  o.method = nil
  local accuracy_grid, report = sweep(method, set, o)
  o.control = true
  local control = sweep(method, set, o)
  return { accuracy = accuracy_grid, control = control, selectivity = (accuracy_grid - control):titled "selectivity", report = report }
end

-- ---- the causal check -----------------------------------------------------------------------------------------------------------------

-- probe.causal(set, { pos = "end", metric = "logit_diff", method =, directions =, train = 0.5, ... }) -> { effect = grid [direction, layer], accuracy = grid
-- [layer, pos], rank = }: probes are trained on the first part of the pairs; in the clean prompts of the others the directions that the probe
-- reads are set to their mean, and, to compare, as many random directions. effect:change() is what that costs.
function probe.causal(set, given)
  local o = pb.options(given, { "seed", "layer", "directions", site = "resid_pre", label = "answer", side = "clean", folds = 5, ridge = 0.01, pos = "end",
                                metric = "logit_diff", method = "linear", train = 0.5 }, "probe.causal")
  set, o.seed = cells.set(set, "probe.causal"), o.seed or pb.seed
  pb.one_of(o.method, { "linear", "logistic" }, "probe.causal: method")
  local train, test = set:split(o.train)
  local list, classes = examples.of(train, o, "probe.causal")
  local layers = cells.over(set, { site = o.site, over = { "layer" }, layer = o.layer })
  local labels, spaces, kinds, rank = {}, {}, { "probe", "random" }, 0
  for i, example in ipairs(list) do labels[i] = example.class end
  for l, cell in ipairs(layers) do
    local rows = {}
    for j, example in ipairs(list) do rows[j] = examples.vector(train, example, o, cell.layer, o.pos) end
    local fitted = probe.fit(pb.stack(rows), labels, #classes, o.method, o.ridge)
    local found = classifier.basis(fitted.W, o.directions or #classes - 1)
    rank = math.max(rank, found.shape[2])
    spaces[l] = { mean = fitted.mean, probe = found, random = classifier.basis(pb.randn { found.shape[1], found.shape[2], seed = o.seed, draw = l }, found.shape[2]) }
  end
  local grid_cells = { axes = { "direction", "layer" }, coords = { direction = kinds, layer = layers.coords.layer },
                       labels = { direction = kinds, layer = layers.labels.layer }, shape = { 2, #layers } }
  for _, kind in ipairs(kinds) do
    for l, cell in ipairs(layers) do grid_cells[#grid_cells + 1] = { kind = kind, layer = cell.layer, space = spaces[l] } end
  end
  local effect = cells.measure(test, grid_cells, function(pair, cell, i)
    local at = type(o.pos) == "string" and test:position(o.pos, i) or o.pos
    local value, V = pair.clean[{ site = o.site, layer = cell.layer, pos = at }], cell.space[cell.kind]
    local flat = value:contiguous():reshape { value.shape[1], value.count // value.shape[1] }
    local moved = flat - (flat - cell.space.mean):matmul(V):matmul(V:transpose(0, 1))
    return { { site = o.site, layer = cell.layer, pos = at, value = moved:reshape(value.shape) } }
  end, { metric = o.metric, run = "clean", site = o.site, name = "directions ablated" })
  local accuracies = sweep(o.method, set, { site = o.site, label = o.label, side = o.side, folds = o.folds, ridge = o.ridge, layer = o.layer, pos = { o.pos }, seed = o.seed })
  return { effect = effect, accuracy = accuracies, rank = rank }
end

return probe
