-- Pictures: grids as heat maps (in files and in the terminal), and pb.plot: lines, bars, points, attention, panels. All of it
-- is made with pb.figure, which anybody can use for another picture.
local pb, core = ...

pb.plot = {}

local TITLES = { layer = "layer", pos = "position", head = "head", neuron = "neuron", dest = "attending position (dest)",
                 src = "attended position (src)", site = "site", class = "class of token", group = "taken together", blocked = "blocked attention" }
local TOKEN_AXES = { pos = true, dest = true, src = true }
local MAP_FIELDS = { "title", "subtitle", "caption", "mark", "colours", "range", "numbers", "digits", "columns", "panels", "transposed", "pixel_scale" }

local function title_of(axis) return TITLES[axis] or axis end

local function pick(t, names)
  local picked = {}
  for _, name in ipairs(names) do picked[name] = t[name] end
  return picked
end

local function number(x) return (("%.4g"):format(x):gsub("^%-", "−")) end

-- "raw", or how it was normalised: every figure says which. about.items says what a mean is over (default: pairs), about.base_is and
-- about.target_is what the two metrics are where nothing was patched from run to run.
local function caption_of(grid)
  local parts, about = {}, grid.about or {}
  if grid.kind == "value" and not (grid.metric or grid.base or grid.parts) then return nil end -- a grid of the user's own numbers
  if grid.metric then parts[1] = grid.metric end
  local n = grid.parts and #grid.parts or about.pairs or about.facts
  if n then parts[#parts + 1] = ("mean of %d %s"):format(n, about.items or "pairs") end
  if grid.kind == "recovered" then
    parts[#parts + 1] = ("%s: %s, where base is the metric of the run that was patched%s, target that of the run the values come from%s"):format(
      grid.unit:find "^estimated" and "estimated share" or "recovered share",
      n and "mean of (x − base) divided by mean of (target − base)" or "(x − base) / (target − base)",
      about.base_metric and (" (%s)"):format(number(tonumber(about.base_metric))) or "",
      about.target_metric and (" (%s)"):format(number(tonumber(about.target_metric))) or "")
  elseif grid.kind == "change" then
    parts[#parts + 1] = "change against the run without the patch"
  else
    parts[#parts + 1] = "raw values"
    if grid.base then parts[#parts + 1] = ("%s %s"):format(about.base_is or "without the patch", number(grid.base)) end
    if grid.target then parts[#parts + 1] = ("%s %s"):format(about.target_is or "in the run that the values come from", number(grid.target)) end
  end
  return table.concat(parts, "; ")
end

-- The captions of several grids as one text: each once, behind the names of the grids that it is of, if it is not of all.
local function captions_of(grids)
  local list, names, with = {}, {}, 0
  for _, grid in ipairs(grids) do
    local caption = caption_of(grid)
    if caption then
      with = with + 1
      if not names[caption] then list[#list + 1], names[caption] = caption, {} end
      table.insert(names[caption], grid.name)
    end
  end
  if #list == 1 and with == #grids then return list[1] end
  for i, caption in ipairs(list) do
    if #names[caption] > 0 then list[i] = table.concat(names[caption], ", ") .. ": " .. caption end
  end
  return #list > 0 and table.concat(list, ".\n") or nil
end

-- Which two axes make the plane: positions or heads against layers, dest against src, else the last two.
local function plane_of(grid, panels)
  local axes = grid.axes
  if #axes == 1 then return { axes[1] } end
  local free = {}
  for _, axis in ipairs(axes) do
    local is_panel = axis == panels
    for _, name in ipairs(type(panels) == "table" and panels or {}) do is_panel = is_panel or name == axis end
    if not is_panel then free[#free + 1] = axis end
  end
  if #free == 2 then return free end
  local function both(a, b)
    local found = 0
    for _, axis in ipairs(free) do found = found + ((axis == a or axis == b) and 1 or 0) end
    return found == 2 and { a, b }
  end
  return both("layer", "pos") or both("layer", "head") or both("dest", "src") or { free[#free - 1], free[#free] }
end

-- Places (0-based) of marked positions on an axis.
local function marks_on(grid, axis, mark)
  if not mark or not TOKEN_AXES[axis] then return nil end
  local wanted, places = {}, {}
  for _, c in ipairs(type(mark) == "table" and mark or { mark }) do wanted[c] = true end
  local n = #grid.coords[axis]
  for i, c in ipairs(grid.coords[axis]) do
    local hit = wanted[c] or (type(c) == "number" and wanted[c - n])
    if type(c) == "table" then
      hit = #c > 0 and wanted[c.name]
      for _, member in ipairs(c) do hit = hit or wanted[member] end
    end
    if hit then places[#places + 1] = i - 1 end
  end
  return places
end

local function draw_plane(figure, grid, options, title)
  local row, col = grid.axes[1], grid.axes[2]
  local values = grid.values
  if not col then values = values:unsqueeze(1) end
  local transposed = options.transposed
  if transposed == nil then transposed = TOKEN_AXES[col] and not TOKEN_AXES[row] or false end
  local x, y = col and title_of(col) or "", title_of(row)
  if transposed then x, y = y, x end
  figure:heatmap {
    values = values, title = title, subtitle = options.subtitle, x_title = x, y_title = y,
    row_labels = grid.labels[row], col_labels = col and grid.labels[col] or { "" },
    marked_rows = marks_on(grid, row, options.mark), marked_cols = col and marks_on(grid, col, options.mark),
    transposed = transposed, causal = row == "dest" and col == "src" and #grid.coords.dest == #grid.coords.src,
    unit = grid.unit, colours = options.colours or grid.kind == "change" and "diverging" or nil, -- a change has a zero that matters
    range = options.range, numbers = options.numbers, digits = options.digits,
  }
end

-- All panels of a grid: one plane for every combination of its other axes.
local function draw_grid(figure, grid, options)
  if #grid.axes == 0 then core.raise("a grid without axes is a number: there is nothing to draw") end
  local plane = plane_of(grid, options.panels)
  local order, others = {}, {}
  for _, axis in ipairs(grid.axes) do
    if axis ~= plane[1] and axis ~= plane[2] then others[#others + 1], order[#order + 1] = axis, axis end
  end
  for _, axis in ipairs(plane) do order[#order + 1] = axis end
  local count = 1
  for _, axis in ipairs(others) do count = count * #grid.coords[axis] end
  if count > 64 then
    core.raise(("%d panels are too many to look at: select some first, as grid:select { %s = %s }"):format(count, others[1],
               core.grid.coordinate_text(grid.coords[others[1]][1])))
  end
  local turned = grid:transpose(order)
  local function descend(part, depth, title)
    local axis = others[depth]
    if not axis then
      draw_plane(figure, part, options, title)
      return
    end
    for i, c in ipairs(part.coords[axis]) do
      local name = axis == "site" and part.labels[axis][i] or axis .. " " .. part.labels[axis][i]
      descend(part:select { [axis] = type(c) == "table" and c.name or c }, depth + 1, title and title .. ", " .. name or name)
    end
  end
  descend(turned, 1, #others == 0 and options.panel_title or nil)
end

local function check_grid(grid, method)
  if not core.grid.is(grid) then core.raise(method .. " is called with a colon: grid:" .. method .. "(...)") end
end

-- grid:figure { ... } -> figure, not saved yet
function core.methods.grid.figure(grid, options)
  check_grid(grid, "figure")
  options = options or {}
  core.fields(options, MAP_FIELDS, 0, "figure")
  local figure = pb.figure { title = options.title or grid.name, caption = options.caption or caption_of(grid), columns = options.columns,
                             pixel_scale = options.pixel_scale, facts = core.facts(grid) }
  draw_grid(figure, grid, options)
  return figure
end

-- grid:heatmap("trace.png", { title =, mark =, ... })
function core.methods.grid.heatmap(grid, path, options)
  check_grid(grid, "heatmap")
  if type(path) ~= "string" then core.raise("heatmap(path, options): the path must be text ending in .png, .svg or .pdf, got " .. core.describe(path)) end
  core.fields(options or {}, MAP_FIELDS, 0, "heatmap")
  grid:figure(options):save(path)
  return grid
end

-- grid:show(): in the terminal
function core.methods.grid.show(grid, options)
  check_grid(grid, "show")
  options = options or {}
  core.fields(options, { "mark", "panels", "colour", "width", "max_rows" }, 0, "show")
  core.print(grid:figure(pick(options, { "mark", "panels" })):text(pick(options, { "colour", "width", "max_rows" })))
  return grid
end

function core.methods.figure.show(figure, options)
  core.print(figure:text(options))
  return figure
end

-- ---- pb.plot ---------------------------------------------------------------------------------------------------------------------

local FIGURE_FIELDS = { "title", "subtitle", "caption", "columns", "pixel_scale", "facts" }

local function fields(t, own, positional, name)
  local all = { table.unpack(FIGURE_FIELDS) }
  for _, field in ipairs(own) do all[#all + 1] = field end
  core.fields(t, all, positional, name)
end

-- A series: y a tensor, a list or a grid with one axis (its labels and intervals come along). x may be the axis' title.
local function read_series(entry, i)
  core.fields(entry, { "x", "y", "label", "low", "high", "error_bars", "dashed", "markers" }, 0, "series " .. i)
  local series, x_title, labels, y_title = pick(entry, { "label", "low", "high", "error_bars", "dashed", "markers" }), nil, nil, nil
  local y = entry.y
  if core.grid.is(y) then
    if #y.axes ~= 1 then core.raise(("series %d: a line needs a grid with one axis, this has %d: select one"):format(i, #y.axes)) end
    x_title, labels, y_title = title_of(y.axes[1]), y.labels[y.axes[1]], y.unit
    if y.se and not entry.low then series.low, series.high = y.values - y.se * 1.96, y.values + y.se * 1.96 end
    series.label, y = series.label or y.name, y.values
  end
  series.y = y
  if type(entry.x) == "string" then x_title = entry.x else series.x = entry.x end
  return series, x_title, labels, y_title
end

-- pb.plot.line { { x =, y =, label = }, ..., title =, y = "y axis" } -> figure
function pb.plot.line(t)
  fields(t, { "x", "y", "log_x", "log_y", "x_labels", "x_range", "y_range", "levels", "level_labels" }, math.maxinteger, "pb.plot.line")
  if #t == 0 then core.raise("pb.plot.line needs at least one series: pb.plot.line { { y = values } }") end
  local panel = pick(t, { "log_x", "log_y", "x_labels", "x_range", "y_range", "levels", "level_labels" })
  panel.series = {}
  for i, entry in ipairs(t) do
    local series, x_title, labels, y_title = read_series(entry, i)
    panel.series[i] = series
    panel.x_title, panel.y_title = panel.x_title or x_title, panel.y_title or y_title
    panel.x_labels = panel.x_labels or labels
  end
  panel.x_title, panel.y_title = t.x or panel.x_title, t.y or panel.y_title
  return pb.figure(pick(t, FIGURE_FIELDS)):lines(panel)
end

-- pb.plot.bar { values = tensor [series, groups] or [groups], labels =, series_labels =, ... } -> figure
function pb.plot.bar(t)
  local own = { "values", "low", "high", "labels", "series_labels", "y_range", "numbers" }
  fields(t, { "x", "y", table.unpack(own) }, 0, "pb.plot.bar")
  local panel = pick(t, own)
  local values = panel.values
  if core.grid.is(values) then
    panel.labels = panel.labels or values.labels[values.axes[#values.axes]]
    if #values.axes == 2 then panel.series_labels = panel.series_labels or values.labels[values.axes[1]] end
    if values.se and not panel.low then panel.low, panel.high = values.values - values.se * 1.96, values.values + values.se * 1.96 end
    panel.y_title, values = values.unit, values.values
  end
  if type(values) == "table" then values = pb.tensor(values) end
  if getmetatable(values) ~= "tensor" then core.raise("pb.plot.bar needs values, a tensor or a list, got " .. core.describe(t.values)) end
  for _, name in ipairs { "low", "high" } do
    local ends = panel[name]
    if type(ends) == "table" then ends = pb.tensor(ends) end
    panel[name] = ends and ends.ndim == 1 and ends:unsqueeze(0) or ends
  end
  panel.values = values.ndim == 1 and values:unsqueeze(0) or values
  panel.x_title, panel.y_title = t.x, t.y or panel.y_title
  return pb.figure(pick(t, FIGURE_FIELDS)):bars(panel)
end

-- pb.plot.scatter { x = tensor or grid, y =, labels =, classes =, class_labels =, identity = true } -> figure
function pb.plot.scatter(t)
  local own = { "labels", "classes", "class_labels", "identity", "log_x", "log_y", "x_range", "y_range" }
  fields(t, { "x", "y", "x_title", "y_title", table.unpack(own) }, 0, "pb.plot.scatter")
  local panel = pick(t, own)
  panel.x_title, panel.y_title = t.x_title, t.y_title
  for _, name in ipairs { "x", "y" } do
    local data = t[name]
    if core.grid.is(data) then
      panel[name .. "_title"] = panel[name .. "_title"] or (data.name and data.name .. ", " or "") .. data.unit
      data = data.values:contiguous():reshape(-1)
    end
    panel[name] = data
  end
  return pb.figure(pick(t, FIGURE_FIELDS)):scatter(panel)
end

-- pb.plot.panels { grid, grid, ..., title =, mark =, columns =, scales = } -> figure: one colour scale for equal units
function pb.plot.panels(t)
  fields(t, { "mark", "scales", "colours", "range", "numbers", "panels" }, math.maxinteger, "pb.plot.panels")
  if #t == 0 then core.raise("pb.plot.panels needs grids: pb.plot.panels { grid, grid:recovered() }") end
  local options = pick(t, FIGURE_FIELDS)
  for i, grid in ipairs(t) do
    if not core.grid.is(grid) then core.raise(("pb.plot.panels: entry %d must be a grid, got %s"):format(i, core.describe(grid))) end
  end
  options.caption, options.scales = options.caption or captions_of(t), t.scales
  options.facts = options.facts or core.facts(t[1])
  local figure = pb.figure(options)
  for _, grid in ipairs(t) do
    local own = pick(t, { "mark", "colours", "range", "numbers", "panels" })
    own.panel_title = grid.name or grid.unit
    draw_grid(figure, grid, own)
  end
  return figure
end

-- pb.plot.attention(run, heads [, options]) -> figure. heads: { { layer = 3, head = 1 }, { 4, 0 }, ... }, as grid:top gives them.
function pb.plot.attention(run, heads, options)
  if getmetatable(run) ~= "run" then core.raise("pb.plot.attention(run, heads): the first argument must be a run, got " .. core.describe(run)) end
  options = options or {}
  fields(options, { "mark", "range", "colours" }, 0, "pb.plot.attention")
  core.check_list(heads, "the heads of pb.plot.attention")
  if #heads == 0 then core.raise("pb.plot.attention: the list of heads is empty") end
  local about = { model = run.model.name, prompt = run.text, site = "pattern" }
  local settings = pick(options, FIGURE_FIELDS)
  settings.facts = settings.facts or about
  local figure, patterns, labels = pb.figure(settings), {}, run.labels
  for i, cell in ipairs(heads) do
    local layer, head = cell.layer or cell[1], cell.head or cell[2]
    if math.type(layer) ~= "integer" or math.type(head) ~= "integer" then
      core.raise(("pb.plot.attention: entry %d must be { layer = 3, head = 1 } or { 3, 1 }, got %s"):format(i, core.describe(cell)))
    end
    patterns[layer] = patterns[layer] or run:value("pattern", layer)
    figure:attention { pattern = patterns[layer]:select(0, head), title = ("head %d.%d"):format(layer, head), labels = labels,
                       mark = options.mark, range = options.range, colours = options.colours }
  end
  return figure
end
