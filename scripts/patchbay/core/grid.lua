-- Grids: numbers with named axes, as sweeps give them. A grid knows its coordinates and labels, the metric of the run that
-- was patched (base) and of the run that the values came from (target), and, over several pairs, each pair's own grid.
local pb, core = ...

local Grid, meta = {}, { __name = "grid", __metatable = "grid" }
local optional = { base = true, target = true, se = true, parts = true, name = true, about = true, metric = true, denominator = true }
local made = setmetatable({}, { __mode = "k" })

local function is_grid(x)
  return made[x] == true
end

-- t: values (tensor), axes (list of names), coords and labels (axis -> list), unit (text), kind ("value", "recovered", "change"),
-- and the optional fields above.
local function new(t)
  t.kind, t.labels = t.kind or "value", t.labels or {}
  for i, axis in ipairs(t.axes) do
    local labels = t.labels[axis]
    if not labels then
      labels = {}
      for j, c in ipairs(t.coords[axis]) do labels[j] = tostring(c) end
      t.labels[axis] = labels
    end
    assert(#labels == t.values.shape[i] and #t.coords[axis] == #labels, "a grid's labels must fit its values")
  end
  made[t] = true
  return setmetatable(t, meta)
end

function meta:__index(key)
  local method = Grid[key]
  if method ~= nil or optional[key] then return method end
  if type(key) ~= "string" then core.raise("a grid has no field with " .. core.describe(key) .. " as its name") end
  local names = { "values", "axes", "coords", "labels", "unit", "kind" }
  for name in pairs(Grid) do names[#names + 1] = name end
  for name in pairs(optional) do names[#names + 1] = name end
  local near = core.suggest(key, names)
  core.raise(("a grid has no field or method '%s'%s"):format(key, near and "; did you mean '" .. near .. "'?" or ""))
end

-- A new grid with other numbers on the same axes. changes: fields that differ (false: absent).
local function like(grid, values, changes)
  local t = { values = values }
  for _, key in ipairs { "axes", "coords", "labels", "unit", "kind", "name", "about", "metric" } do t[key] = rawget(grid, key) end
  for key, value in pairs(changes or {}) do t[key] = value or nil end
  return new(t)
end

local function check(grid, method)
  if not is_grid(grid) then core.raise(method .. " is called with a colon: grid:" .. method .. "(...)") end
  return grid
end

-- ---- means over several prompts ------------------------------------------------------------------------------------------

local function same_axes(a, b)
  if #a.axes ~= #b.axes then return false end
  for i, axis in ipairs(a.axes) do
    if b.axes[i] ~= axis or #a.coords[axis] ~= #b.coords[axis] then return false end
  end
  return true
end

local function axes_text(grid)
  local parts = {}
  for i, axis in ipairs(grid.axes) do parts[i] = axis .. " " .. #grid.coords[axis] end
  return "[" .. table.concat(parts, ", ") .. "]"
end

-- Standard error of the mean of tensors whose deviations from it are given; nil for one.
local function standard_error(deviations)
  local n = #deviations
  if n < 2 then return nil end
  return ((pb.stack(deviations):square():sum(0)) / (n * (n - 1))):sqrt()
end

local function mean_number(parts, field)
  local sum = 0
  for _, part in ipairs(parts) do
    local x = rawget(part, field)
    if not x then return nil end
    sum = sum + x
  end
  return sum / #parts
end

-- The mean of grids with equal axes, entry by entry, with its standard error; they stay in .parts.
local function mean(parts, changes)
  local first = parts[1]
  local all = {}
  for i, part in ipairs(parts) do
    if not is_grid(part) then core.raise("a mean of grids: entry " .. i .. " is " .. core.describe(part)) end
    if not same_axes(first, part) then
      core.raise(("grids with other axes have no mean: 1 is %s, %d is %s"):format(axes_text(first), i, axes_text(part)))
    end
    all[i] = part.values
  end
  local values = pb.stack(all):mean(0)
  local deviations = {}
  for i, part in ipairs(parts) do deviations[i] = part.values - values end
  local t = { se = standard_error(deviations) or false, parts = parts,
              base = mean_number(parts, "base") or false, target = mean_number(parts, "target") or false }
  for key, value in pairs(changes or {}) do t[key] = value end
  return like(first, values, t)
end

-- What the whole grid says of itself, for means of its changed parts: a part knows one prompt only.
local function whole(grid, changes)
  local t = { name = rawget(grid, "name") or false, metric = rawget(grid, "metric") or false, about = rawget(grid, "about") or false, labels = grid.labels }
  for key, value in pairs(changes or {}) do t[key] = value end
  return t
end

-- ---- normalising -----------------------------------------------------------------------------------------------------------

-- What a share was made of, for captions and files: the metric of both runs.
local function with_span(about, grid)
  local t = {}
  for key, value in pairs(about or {}) do t[key] = value end
  t.base_metric, t.target_metric = ("%.9g"):format(grid.base), ("%.9g"):format(grid.target)
  return t
end

local function needs_target(grid)
  if not grid.base or not grid.target then
    core.raise("recovered() needs the metric of the run that the values come from: a sweep with from = run has it " ..
               "(grid:change() gives the difference to the base run)")
  end
  local span = grid.target - grid.base
  if span == 0 or span ~= span then
    core.raise(("the metric is the same in both runs (%.6g): there is nothing to recover"):format(grid.base))
  end
  return span
end

-- (x - base) / (target - base). Over pairs: mean of x - base, divided by the mean of target - base (as TransformerLens's demos
-- and the IOI paper do), standard error by the delta method; recovered("each") is the mean of every pair's own share.
function Grid:recovered(how)
  check(self, "recovered")
  if how ~= nil and how ~= "each" then core.raise("recovered() takes nothing, or \"each\"; got " .. core.describe(how)) end
  if not self.base or not self.target then needs_target(self) end
  local what = self.unit:gsub("^change of ", "")
  local unit = what:find "^estimated " and what:gsub("^estimated ", "estimated share of ") or "recovered share of " .. what
  local changes = { kind = "recovered", unit = unit, base = 0, target = 1, about = with_span(self.about, self) }
  if not self.parts then
    local span = needs_target(self)
    return like(self, (self.values - self.base) / span, changes)
  end
  if how == "each" then
    local each = {}
    for i, part in ipairs(self.parts) do each[i] = part:recovered() end
    return mean(each, whole(self, { about = changes.about }))
  end
  local span, sum = needs_target(self), nil
  local gains = {}
  for i, part in ipairs(self.parts) do
    gains[i] = (part.values - part.base) / span
    sum = sum and sum + gains[i] or gains[i]
  end
  local share, deviations = sum / #gains, {}
  for i, part in ipairs(self.parts) do
    deviations[i] = gains[i] - share * ((part.target - part.base) / span)
  end
  changes.se, changes.denominator = standard_error(deviations) or false, span
  return like(self, share, changes)
end

-- x - base: how far each patch moved the metric.
function Grid:change()
  check(self, "change")
  if not self.base then core.raise("change() needs the metric of the base run, which this grid does not have") end
  if self.parts then
    local each = {}
    for i, part in ipairs(self.parts) do each[i] = part:change() end
    return mean(each, whole(self))
  end
  return like(self, self.values - self.base, { kind = "change", unit = "change of " .. self.unit, base = 0,
                                               target = self.target and self.target - self.base or false })
end

-- ---- arithmetic --------------------------------------------------------------------------------------------------------------

local function combine(a, b, symbol, op)
  local grid = is_grid(a) and a or b
  local other = grid == a and b or a
  if is_grid(other) then
    if not same_axes(a, b) then
      core.raise(("grids with other axes cannot be combined: %s %s %s"):format(axes_text(a), symbol, axes_text(b)))
    end
  elseif type(other) ~= "number" then
    core.raise(("a grid %s %s: expected a grid with the same axes or a number"):format(symbol, core.describe(other)))
  end
  local function part_of(x, i)
    return is_grid(x) and x.parts[i] or x
  end
  local function all_have_parts(x)
    return not is_grid(x) or x.parts ~= nil
  end
  if all_have_parts(a) and all_have_parts(b) and not (is_grid(a) and is_grid(b) and #a.parts ~= #b.parts) then
    local each = {}
    for i = 1, #grid.parts do each[i] = op(part_of(a, i), part_of(b, i)) end
    return mean(each, whole(grid))
  end
  local function field(x, name)
    if not is_grid(x) then return x end
    return rawget(x, name)
  end
  local function number(name)
    local x, y = field(a, name), field(b, name)
    return x and y and op(x, y) or false
  end
  local unit = is_grid(other) and other.unit ~= grid.unit and ("%s %s %s"):format(a.unit, symbol, b.unit) or grid.unit
  return like(grid, op(field(a, "values"), field(b, "values")), { base = number "base", target = number "target", unit = unit })
end

function meta.__add(a, b) return combine(a, b, "+", function(x, y) return x + y end) end
function meta.__sub(a, b) return combine(a, b, "-", function(x, y) return x - y end) end
function meta.__mul(a, b) return combine(a, b, "*", function(x, y) return x * y end) end
function meta.__div(a, b) return combine(a, b, "/", function(x, y) return x / y end) end
function meta.__unm(a) return combine(a, -1, "*", function(x, y) return x * y end) end

function Grid:abs()
  return like(check(self, "abs"), self.values:abs(), { unit = "size of " .. self.unit })
end

-- ---- looking ------------------------------------------------------------------------------------------------------------------

-- 0-based place of a coordinate on an axis; negative numbers count from the end.
local function place_of(grid, axis, coordinate)
  local coords = grid.coords[axis]
  for i, c in ipairs(coords) do
    if c == coordinate or (type(c) == "table" and c.name and c.name == coordinate) then return i - 1 end
  end
  if math.type(coordinate) == "integer" and coordinate < 0 and coordinate >= -#coords then return #coords + coordinate end
  local first, last = grid.labels[axis][1], grid.labels[axis][#coords]
  local known = type(coords[1]) == "number" and ("%s to %s"):format(coords[1], coords[#coords]) or ("'%s' to '%s'"):format(first, last)
  core.raise(("the grid has no %s %s: it has %s"):format(axis, type(coordinate) == "table" and "group" or tostring(coordinate), known))
end

local function check_axes_of(grid, where, method)
  core.fields(where, grid.axes, 0, method)
  return where
end

-- grid:get { layer = 3, pos = -1 } -> number (and its standard error)
function Grid:get(where)
  check_axes_of(check(self, "get"), where, "get")
  local index = {}
  for i, axis in ipairs(self.axes) do
    if where[axis] == nil then core.raise(("get needs a coordinate on every axis: %s is missing"):format(axis)) end
    index[i] = place_of(self, axis, where[axis])
  end
  if self.se then return self.values:get(table.unpack(index)), self.se:get(table.unpack(index)) end
  return self.values:get(table.unpack(index))
end

local function without(list, axis)
  local rest = {}
  for _, name in ipairs(list) do
    if name ~= axis then rest[#rest + 1] = name end
  end
  return rest
end

-- grid:select { layer = 3 } -> grid without that axis
function Grid:select(where)
  check_axes_of(check(self, "select"), where, "select")
  local values, se, axes = self.values, self.se, self.axes
  for i = #self.axes, 1, -1 do
    local axis = self.axes[i]
    if where[axis] ~= nil then
      local place = place_of(self, axis, where[axis])
      values, se = values:select(i - 1, place), se and se:select(i - 1, place)
      axes = without(axes, axis)
    end
  end
  local parts
  if self.parts then
    parts = {}
    for i, part in ipairs(self.parts) do parts[i] = part:select(where) end
  end
  return like(self, values, { axes = axes, se = se or false, parts = parts or false, base = self.base or false, target = self.target or false })
end

-- grid:transpose() reverses the axes; grid:transpose { "head", "layer" } gives their order.
function Grid:transpose(order)
  check(self, "transpose")
  if order == nil then
    order = {}
    for i, axis in ipairs(self.axes) do order[#self.axes + 1 - i] = axis end
  end
  local values, se, axes = self.values, self.se, { table.unpack(self.axes) }
  if type(order) ~= "table" or #order ~= #axes then core.raise("transpose needs every axis once: " .. axes_text(self)) end
  for i, name in ipairs(order) do
    local from
    for j = i, #axes do from = from or (axes[j] == name and j) end
    if not from then core.raise(("transpose needs every axis once (%s): '%s'"):format(axes_text(self), tostring(name))) end
    values, se = values:transpose(i - 1, from - 1), se and se:transpose(i - 1, from - 1)
    axes[i], axes[from] = axes[from], axes[i]
  end
  local parts
  if self.parts then
    parts = {}
    for i, part in ipairs(self.parts) do parts[i] = part:transpose(order) end
  end
  return like(self, values:contiguous(), { axes = axes, se = se and se:contiguous() or false, parts = parts or false,
                                           base = self.base or false, target = self.target or false })
end

function Grid:titled(text)
  check(self, "titled")
  if type(text) ~= "string" then core.raise("titled(text): got " .. core.describe(text)) end
  return like(self, self.values, { name = text, se = self.se or false, parts = self.parts or false, base = self.base or false,
                                   target = self.target or false })
end

function Grid:max() return check(self, "max").values:max() end
function Grid:min() return check(self, "min").values:min() end

-- The cell at flat index i (0-based): coordinates by axis name, value, se.
local function cell_at(grid, i, value, se)
  local cell = { value = value, se = se and se[i + 1] or nil }
  for a = #grid.axes, 1, -1 do
    local axis = grid.axes[a]
    local n = #grid.coords[axis]
    local place = i % n
    cell[axis], i = grid.coords[axis][place + 1], i // n
    if axis == "pos" or axis == "dest" or axis == "src" then cell[axis == "pos" and "token" or axis .. "_token"] = grid.labels[axis][place + 1] end
  end
  return cell
end

-- The k cells that are largest ("high", the default), smallest ("low") or largest in size ("abs"), in that order; of equal
-- ones the first. NaN cells are left out.
function Grid:top(k, by)
  check(self, "top")
  if math.type(k) ~= "integer" or k < 1 then core.raise("top(k): k must be a positive integer, got " .. core.describe(k)) end
  by = by or "high"
  if by ~= "high" and by ~= "low" and by ~= "abs" then core.raise("top(k, by): by must be \"high\", \"low\" or \"abs\", got " .. core.describe(by)) end
  local best = {} -- { key, index, value }, best first
  for i, value in ipairs(self.values:tolist()) do
    local key = by == "abs" and math.abs(value) or by == "low" and -value or value
    if key == key and (#best < k or key > best[#best][1]) then
      local at = #best + 1
      while at > 1 and best[at - 1][1] < key do at = at - 1 end
      table.insert(best, at, { key, i - 1, value })
      best[k + 1] = nil
    end
  end
  local se, cells = self.se and self.se:tolist(), {}
  for i, found in ipairs(best) do cells[i] = cell_at(self, found[2], found[3], se) end
  return cells
end

-- All cells in the order of the values.
function Grid:cells()
  check(self, "cells")
  local se, cells = self.se and self.se:tolist(), {}
  for i, value in ipairs(self.values:tolist()) do cells[i] = cell_at(self, i - 1, value, se) end
  return cells
end

function meta:__tostring()
  local lines = {}
  lines[1] = ("grid %s, %s%s"):format(axes_text(self), self.unit, self.name and ": " .. self.name or "")
  if self.base then lines[#lines + 1] = ("base %.6g%s"):format(self.base, self.target and (", target %.6g"):format(self.target) or "") end
  if self.parts then lines[#lines + 1] = ("mean of %d"):format(#self.parts) end
  lines[#lines + 1] = ("from %.6g to %.6g"):format(self:min(), self:max())
  return table.concat(lines, "; ")
end

-- ---- files --------------------------------------------------------------------------------------------------------------------

local function coordinate_text(c)
  if type(c) ~= "table" then return tostring(c) end
  return c.name or table.concat(c, " ")
end

-- One row a cell: coordinates, what the tokens are, value, standard error.
local function write_csv(grid, path)
  local columns, rows = {}, grid:cells()
  local token = { pos = "token", dest = "dest_token", src = "src_token" }
  for _, axis in ipairs(grid.axes) do
    columns[#columns + 1] = axis
    if token[axis] then columns[#columns + 1] = token[axis] end
  end
  columns[#columns + 1] = "value"
  if grid.se then columns[#columns + 1] = "se" end
  for _, row in ipairs(rows) do
    for _, axis in ipairs(grid.axes) do
      if type(row[axis]) == "table" then row[axis] = coordinate_text(row[axis]) end
    end
  end
  pb.write(path, rows, { columns = columns })
end

-- What a file or figure says about where its numbers come from: text -> text.
function core.facts(grid)
  local facts = {}
  for key, value in pairs(grid.about or {}) do facts[key] = tostring(value) end
  facts.unit, facts.kind = grid.unit, grid.kind
  if grid.base then facts.base = ("%.9g"):format(grid.base) end
  if grid.target then facts.target = ("%.9g"):format(grid.target) end
  if grid.parts then facts.pairs = tostring(#grid.parts) end
  if grid.name then facts.title = grid.name end
  return facts
end

-- grid:save "x.csv" (one row a cell) or "x.safetensors" (values, se, each pair's values, and the facts as metadata)
function Grid:save(path)
  check(self, "save")
  if type(path) ~= "string" then core.raise("save(path): got " .. core.describe(path)) end
  local kind = path:lower():match("%.([%w]+)$")
  if kind == "csv" then
    write_csv(self, path)
  elseif kind == "safetensors" then
    local tensors, facts = { values = self.values:contiguous() }, core.facts(self)
    facts.axes = table.concat(self.axes, ",")
    for _, axis in ipairs(self.axes) do facts["labels." .. axis] = table.concat(self.labels[axis], "\t") end
    if self.se then tensors.se = self.se:contiguous() end
    for i, part in ipairs(self.parts or {}) do tensors[("pair.%04d"):format(i)] = part.values:contiguous() end
    core.write_safetensors(path, tensors, facts)
  else
    core.raise(("grid:save writes .csv or .safetensors (grid:heatmap draws): '%s'"):format(path))
  end
  return self
end

core.methods.grid = Grid
core.grid = { new = new, mean = mean, is = is_grid, like = like, coordinate_text = coordinate_text }

-- pb.mean(grids): entry by entry, with standard error
function pb.mean(grids)
  if type(grids) ~= "table" or #grids == 0 then core.raise("pb.mean takes a list of grids, got " .. core.describe(grids)) end
  return mean(grids)
end

-- pb.grid { values = tensor, axes = { "layer", "head" }, labels =, coords =, unit =, name =, base =, target =, se =, metric =, about = }
function pb.grid(t)
  core.fields(t, { "values", "axes", "coords", "labels", "unit", "name", "base", "target", "se", "metric", "about" }, 0, "pb.grid")
  if type(t.axes) ~= "table" or #t.axes == 0 then core.raise("pb.grid needs axes, a list of names") end
  local values = type(t.values) == "table" and pb.tensor(t.values) or t.values
  if getmetatable(values) ~= "tensor" then core.raise("pb.grid needs values, a tensor, got " .. core.describe(t.values)) end
  if values.ndim ~= #t.axes then core.raise(("pb.grid: %d axes are named, the values have %d"):format(#t.axes, values.ndim)) end
  local coords, labels = {}, {}
  for i, axis in ipairs(t.axes) do
    local given = t.coords and t.coords[axis]
    coords[axis] = given
    if not given then
      coords[axis] = {}
      for j = 1, values.shape[i] do coords[axis][j] = j - 1 end
    end
    labels[axis] = t.labels and t.labels[axis]
    for what, list in pairs { coordinates = coords[axis], labels = labels[axis] } do
      if #list ~= values.shape[i] then core.raise(("pb.grid: axis %s has %d %s for %d values"):format(axis, #list, what, values.shape[i])) end
    end
  end
  return new { values = values, axes = { table.unpack(t.axes) }, coords = coords, labels = labels, unit = t.unit or "value", name = t.name,
               base = t.base, target = t.target, se = t.se, metric = t.metric, about = t.about }
end
