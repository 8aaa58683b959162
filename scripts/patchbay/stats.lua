-- Statistics that go beside patching: where attention goes (not causal), bootstrap intervals, correlations. pb.stats has them without
-- require.
local pb = require "patchbay"

local stats = {}

local function as_list(x) return type(x) == "table" and x or { x } end

-- stats.attention(set, { dest = -1, src = , side = "clean", heads = false }) -> grid [layer, src], or [layer, head, src] with heads = true: the
-- attention of one destination (a position, or a name of the pairs' positions), summed over the tokens of a named source, mean over
-- heads and pairs. Sources: every position where the prompts have one length, else the names that all pairs have.
function stats.attention(set, given)
  local cells = require "patchbay.cells"
  local o = pb.options(given, { "src", dest = -1, side = "clean", heads = false }, "stats.attention")
  set = cells.set(set, "stats.attention")
  pb.one_of(o.side, { "clean", "corrupt" }, "stats.attention: side")
  local model, parts, labels, sources = set.model, {}, {}, o.src
  if sources == nil or sources == "all" then sources = cells.positions(set, "stats.attention") end
  if sources == "all" then
    sources = {}
    for p = 0, #set[1].clean - 1 do sources[p + 1] = p end
    if #set == 1 then labels = set[1][o.side].labels end
  end
  sources = as_list(sources)
  for j, src in ipairs(sources) do labels[j] = labels[j] or tostring(src) end
  for i = 1, #set do
    local run, layers, columns = set[i][o.side], {}, {}
    local function places(where)
      local list = {}
      for _, p in ipairs(as_list(type(where) == "string" and set:position(where, i) or where)) do list[#list + 1] = p < 0 and p + #run or p end
      return list
    end
    local dest = places(o.dest)
    for layer = 0, model.layers - 1 do
      local rows = run[{ site = "pattern", layer = layer, dest = dest }]:mean(1)                -- [head, src]
      for j, src in ipairs(sources) do columns[j] = rows:index(1, places(src)):sum(1) end
      layers[layer + 1] = pb.stack(columns, 1)
      if not o.heads then layers[layer + 1] = layers[layer + 1]:mean(0) end
    end
    parts[i] = pb.grid { values = pb.stack(layers), axes = o.heads and { "layer", "head", "src" } or { "layer", "src" }, labels = { src = labels },
                         coords = { src = sources }, unit = "attention", name = "attention", about = { model = model.name, pairs = #set, dest = tostring(o.dest) } }
  end
  return pb.mean(parts)
end

-- ---- intervals ----------------------------------------------------------------------------------------------------------------------

-- The sample of pairs as rows [n, cells].
local function sample_of(values)
  if getmetatable(values) == "grid" then
    if not values.parts then pb.fail "stats.bootstrap of a grid needs one over several pairs (with parts)" end
    local rows = {}
    for i, part in ipairs(values.parts) do rows[i] = part.values:contiguous():reshape(-1) end
    return pb.stack(rows)
  end
  local t = type(values) == "table" and pb.tensor(values) or values
  if getmetatable(t) ~= "tensor" then pb.fail("stats.bootstrap takes a tensor, a list or a grid, got %s", type(values)) end
  return t:contiguous():reshape { t.shape[1], t.count // t.shape[1] }
end

-- How often each of n entries is drawn in each of `draws` resamples, as shares: [draws, n].
local function resamples(n, draws, seed)
  local picked, shares = pb.rand { draws, n, seed = seed, draw = 0 }:tolist(), pb.zeros { draws, n }
  for d = 0, draws - 1 do
    local counts = {}
    for j = 1, n do
      local k = math.min(n - 1, math.floor(picked[d * n + j] * n))
      counts[k] = (counts[k] or 0) + 1
    end
    for k, count in pairs(counts) do shares:set(d, k, count / n) end
  end
  return shares
end

local function quantile(sorted, q)
  local at = q * (#sorted - 1) + 1
  local low = math.floor(at)
  return sorted[low] + (at - low) * ((sorted[low + 1] or sorted[low]) - sorted[low])
end

-- stats.bootstrap(values, { n = 1000, level = 0.95, seed = }) -> { mean =, se =, low =, high = }: the percentile interval of the mean, of a list or
-- tensor of numbers (numbers), of rows [n, ...] or of a grid's parts (tensors of the cell's shape)
function stats.bootstrap(values, given)
  local o = pb.options(given, { n = 1000, level = 0.95, seed = pb.seed }, "stats.bootstrap")
  if type(o.level) ~= "number" or o.level <= 0 or o.level >= 1 then pb.fail("stats.bootstrap: level must be between 0 and 1, got %s", tostring(o.level)) end
  local sample = sample_of(values)
  local n, width = sample.shape[1], sample.shape[2]
  if n < 2 then pb.fail "stats.bootstrap needs at least two values" end
  local means = resamples(n, o.n, o.seed):matmul(sample)
  local out, low, high, se = { mean = sample:mean(0) }, {}, {}, {}
  for c = 0, width - 1 do
    local column = means:select(1, c):contiguous()
    local sorted = column:tolist()
    table.sort(sorted)
    low[c + 1], high[c + 1] = quantile(sorted, (1 - o.level) / 2), quantile(sorted, (1 + o.level) / 2)
    local deviation = column - column:mean()
    se[c + 1] = (deviation:square():sum() / (o.n - 1)) ^ 0.5
  end
  out.low, out.high, out.se = pb.tensor(low), pb.tensor(high), pb.tensor(se)
  local shape = getmetatable(values) == "grid" and values.values.shape
  for key, tensor in pairs(out) do out[key] = shape and tensor:reshape(shape) or width == 1 and tensor:item() or tensor end
  return out
end

-- ---- correlation -----------------------------------------------------------------------------------------------------------------------

local function numbers(x)
  if getmetatable(x) == "grid" then x = x.values end
  return getmetatable(x) == "tensor" and x:contiguous():tolist() or x
end

-- Ranks from 1; equal values share the mean of theirs.
local function ranks(list)
  local order, out = {}, {}
  for i = 1, #list do order[i] = i end
  table.sort(order, function(a, b) return list[a] < list[b] or (list[a] == list[b] and a < b) end)
  local i = 1
  while i <= #order do
    local j = i
    while j < #order and list[order[j + 1]] == list[order[i]] do j = j + 1 end
    for k = i, j do out[order[k]] = (i + j) / 2 end
    i = j + 1
  end
  return out
end

-- stats.correlation(a, b [, "rank" | "linear"]) -> number: Spearman's (default) or Pearson's, of lists, tensors or grids of one size
function stats.correlation(a, b, kind)
  pb.one_of(kind or "rank", { "rank", "linear" }, "stats.correlation: kind")
  local x, y = numbers(a), numbers(b)
  if type(x) ~= "table" or type(y) ~= "table" or #x ~= #y then pb.fail("stats.correlation needs two lists of one size, got %s and %s numbers", #x, #y) end
  if #x < 2 then pb.fail "stats.correlation needs at least two numbers" end
  if kind ~= "linear" then x, y = ranks(x), ranks(y) end
  local n, mx, my, xx, yy, xy = #x, 0, 0, 0, 0, 0
  for i = 1, n do mx, my = mx + x[i] / n, my + y[i] / n end
  for i = 1, n do
    local dx, dy = x[i] - mx, y[i] - my
    xx, yy, xy = xx + dx * dx, yy + dy * dy, xy + dx * dy
  end
  if xx == 0 or yy == 0 then return 0 / 0 end
  return xy / (xx * yy) ^ 0.5
end

return stats
