-- Grids: arithmetic, looking, ranking, files, figures.
local pb, check = require "patchbay", require "patchbay.check"

-- Equal, whether numbers are written as 1 or 1.0.
local function floats(x)
  if type(x) == "number" then return x + 0.0 end
  if type(x) ~= "table" or getmetatable(x) then return x end
  local t = {}
  for key, value in pairs(x) do t[key] = floats(value) end
  return t
end
local function eq(got, wanted, note) check.eq(floats(got), floats(wanted), note) end

local function grid(t)
  t = t or {}
  return pb.grid { values = t.values or { { 1, 2, 3 }, { 4, 5, 6 } }, axes = { "layer", "head" }, unit = t.unit or "logit", base = t.base, target = t.target,
                   coords = t.coords, se = t.se, name = t.name }
end

check.test("grid: fields and text", function()
  local g = grid { base = 1, target = 5, name = "mine" }
  eq({ g.axes, g.coords.head, g.labels.layer, g.base, g.target, g.name, g.kind, g.unit },
           { { "layer", "head" }, { 0, 1, 2 }, { "0", "1" }, 1, 5, "mine", "value", "logit" })
  eq({ g.se, g.parts }, {})
  check.ok(tostring(g):find("[layer 2, head 3], logit: mine", 1, true), tostring(g))
  eq({ g:max(), g:min() }, { 6.0, 1.0 })
  check.raises(function() return g.foos end, "no field or method 'foos'")
  check.raises(function() return g.heatmp end, "did you mean 'heatmap'")
  check.raises(function() g.max() end, "colon")
end)

check.test("grid: recovered, change, abs", function()
  local g = grid { base = 1, target = 5 }
  local share = g:recovered()
  eq(share.values:totable(), { { 0, 0.25, 0.5 }, { 0.75, 1, 1.25 } })
  eq({ share.base, share.target, share.unit, share.kind }, { 0, 1, "recovered share of logit", "recovered" })
  eq(g:change().values:totable(), { { 0, 1, 2 }, { 3, 4, 5 } })
  eq({ g:change().base, g:change().target }, { 0, 4 })
  eq((g - 3):abs().values:totable(), { { 2, 1, 0 }, { 1, 2, 3 } })
  eq(g.values:totable(), { { 1, 2, 3 }, { 4, 5, 6 } }, "the grid itself never changes")
  check.raises(function() grid():recovered() end, "from = run")
  check.raises(function() grid():change() end, "base run")
  check.raises(function() grid({ base = 2, target = 2 }):recovered() end, "the same in both runs")
  check.raises(function() g:recovered "every" end, "\"each\"")
end)

check.test("grid: arithmetic between grids and with numbers", function()
  local a, b = grid { base = 1, target = 5 }, grid { values = { { 2, 2, 2 }, { 1, 1, 1 } }, base = 1, target = 2 }
  eq((a + b).values:totable(), { { 3, 4, 5 }, { 5, 6, 7 } })
  eq((a - b).values:totable(), { { -1, 0, 1 }, { 3, 4, 5 } })
  eq((a * b).values:totable(), { { 2, 4, 6 }, { 4, 5, 6 } })
  eq((a / 2).values:totable(), { { 0.5, 1, 1.5 }, { 2, 2.5, 3 } })
  eq((10 - a).values:totable(), { { 9, 8, 7 }, { 6, 5, 4 } })
  eq((-a).values:totable(), { { -1, -2, -3 }, { -4, -5, -6 } })
  eq({ (a + b).base, (a + b).target, (10 - a).base, (a * 2).target }, { 2, 7, 9, 10 })
  eq((a * 2):recovered().values:totable(), a:recovered().values:totable(), "a change of unit recovers the same share")
  eq((a + grid()).base, nil)
  check.raises(function() return a + grid { values = { { 1, 2 } } } end, "[layer 2, head 3] + [layer 1, head 2]")
  check.raises(function() return a + {} end, "expected a grid")
end)

check.test("grid: cells by coordinates", function()
  local g = grid { coords = { layer = { 4, 7 }, head = { 0, { 1, 2, name = "both" }, 3 } } }
  eq({ g:get { layer = 7, head = 0 }, g:get { layer = 4, head = "both" }, g:get { layer = -1, head = 3 } }, { 4.0, 2.0, 6.0 })
  eq(g:select({ layer = 7 }).values:totable(), { 4, 5, 6 })
  eq({ g:select({ layer = 7 }).axes, g:select({ layer = 7, head = 3 }).values:item() }, { { "head" }, 6.0 })
  eq({ g:transpose().axes, g:transpose().values:totable() }, { { "head", "layer" }, { { 1, 4 }, { 2, 5 }, { 3, 6 } } })
  eq(g:transpose({ "layer", "head" }).values:totable(), g.values:totable())
  eq(g:titled("x").name, "x")
  check.raises(function() g:get { layer = 7 } end, "head is missing")
  check.raises(function() g:get { layer = 5, head = 0 } end, "no layer 5", "4 to 7")
  check.raises(function() local _ = g:select { leyer = 7 } end, "did you mean 'layer'")
  check.raises(function() g:transpose { "layer", "layer" } end, "every axis once")
end)

check.test("grid: transpose of three axes is a permutation", function()
  local values = pb.arange(24):reshape(2, 3, 4)
  local g = pb.grid { values = values, axes = { "a", "b", "c" } }
  for _, order in ipairs { { "c", "a", "b" }, { "b", "c", "a" }, { "c", "b", "a" }, { "b", "a", "c" }, { "a", "c", "b" } } do
    local t = g:transpose(order)
    eq(t.axes, order)
    for _, cell in ipairs(t:cells()) do eq(cell.value, values:get(cell.a, cell.b, cell.c)) end
  end
end)

check.test("grid: top, by value, size and from below; ties by place; NaN left out", function()
  local g = grid { values = { { 3, -9, 3 }, { 0 / 0, 5, -1 } }, se = pb.tensor { { 1, 2, 3 }, { 4, 5, 6 } } }
  local function places(cells)
    local t = {}
    for i, c in ipairs(cells) do t[i] = c.layer .. "." .. c.head end
    return t
  end
  eq(places(g:top(3)), { "1.1", "0.0", "0.2" })
  eq(places(g:top(2, "abs")), { "0.1", "1.1" })
  eq(places(g:top(2, "low")), { "0.1", "1.2" })
  eq(#g:top(99), 5)
  eq({ g:top(1)[1].value, g:top(1)[1].se }, { 5.0, 5.0 })
  check.raises(function() g:top(0) end, "positive integer")
  check.raises(function() g:top(1, "big") end, "\"abs\"")
end)

check.test("grid: the mean of grids with its standard error, through arithmetic", function()
  local m = pb.mean { grid { values = { { 1, 2, 3 }, { 0, 0, 0 } }, base = 0, target = 2 }, grid { values = { { 3, 2, 7 }, { 0, 0, 6 } }, base = 2, target = 6 } }
  eq({ m.values:totable(), m.base, m.target, #m.parts }, { { { 2, 2, 5 }, { 0, 0, 3 } }, 1.0, 4.0, 2 })
  check.close(m.se, { { 1, 0, 2 }, { 0, 0, 3 } }, 1e-6)
  check.close((m * 2 + 1).se, { { 2, 0, 4 }, { 0, 0, 6 } }, 1e-6)
  eq((m * 2 + 1).parts[2].values:totable(), { { 7, 5, 15 }, { 1, 1, 13 } })
  check.close(m:change().values, { { 1, 1, 4 }, { -1, -1, 2 } }, 1e-6)
  check.close(m:recovered().values, { { 1 / 3, 1 / 3, 4 / 3 }, { -1 / 3, -1 / 3, 2 / 3 } }, 1e-6)
  eq(m:select({ head = 2 }).parts[1].values:totable(), { 3, 0 })
  check.close(m:transpose().se, { { 1, 0 }, { 0, 0 }, { 2, 3 } }, 1e-6)
  eq(pb.mean({ grid() }).se, nil)
  check.raises(function() pb.mean { grid(), grid { values = { { 1 } } } } end, "2 is [layer 1, head 1]")
  check.raises(function() pb.mean { grid(), 3 } end, "entry 2")
end)

check.test("grid: as CSV and safetensors, and back", function()
  local g = pb.mean { grid(), grid { values = { { 2, 4, 6 }, { 8, 10, 12 } } } }
  g:save "grid.csv"
  local rows = pb.read(check.output_folder() .. "/grid.csv")
  eq({ #rows, rows[6].layer, rows[6].head, rows[6].value }, { 6, 1, 2, 9 })
  check.close(rows[6].se, 3, 1e-6)
  g:save "grid.safetensors"
  local back = pb.read(check.output_folder() .. "/grid.safetensors")
  eq(back.values:totable(), g.values:totable())
  eq(back["pair.0002"]:totable(), { { 2, 4, 6 }, { 8, 10, 12 } })
  check.raises(function() g:save "grid.txt" end, ".csv or .safetensors")
  check.raises(function() g:save "../grid.csv" end, "leaves the output folder")
end)

check.test("grid: a position's tokens are in the CSV", function()
  local model = pb.load "facts"
  local clean = model:run "The Eiffel Tower is"
  local g = clean:sweep { site = "resid_pre", over = { "layer", "pos" }, layer = { 0, 1 }, pos = { { name = "tower", 4, 5 }, 6 }, zero = true, metric = pb.metric.logit " in" }
  g:save "tokens.csv"
  local rows = pb.read(check.output_folder() .. "/tokens.csv")
  eq({ rows[1].pos, rows[1].token, rows[2].pos, rows[2].token, #rows }, { "tower", "tower", 6, "␣is", 4 })
end)

check.test("grid: figures in every format, of one to four axes, with facts inside", function()
  local g = grid { base = 1, target = 5, name = "a title" }
  for _, name in ipairs { "g.png", "g.svg", "g.pdf" } do g:recovered():heatmap(name, { title = "t", colours = "greens", range = { 0, 1 }, numbers = true }) end
  local four = pb.grid { values = pb.arange(2 * 3 * 4 * 2):reshape(2, 3, 4, 2), axes = { "site", "layer", "pos", "head" }, labels = { pos = { "The", "␣Eiffel", "␣Tower", "␣is" } } }
  eq(#four:figure(), 4)
  eq(#four:figure { panels = { "head", "pos" } }, 8)
  eq(#four:select({ site = 0, head = 1 }):figure { mark = { 1, -2 } }, 1)
  eq(#four:select({ site = 0, head = 1, pos = 2 }):figure(), 1)
  check.raises(function() four:select({ site = 0, head = 1, pos = 2, layer = 0 }):figure() end, "nothing to draw")
  local many = pb.grid { values = pb.zeros(70, 2, 2), axes = { "a", "b", "c" } }
  check.raises(function() many:figure() end, "70 panels", "select")
  check.raises(function() g:heatmap("x.gif") end, ".gif")
  check.raises(function() g:heatmap("x.png", { titel = "t" }) end, "did you mean 'title'")
  check.raises(function() g:heatmap("x.png", { colours = "greenish" }) end, "greens")
  check.raises(function() g:heatmap("x.png", { range = { 1 } }) end, "{ low, high }")
end)

check.test("grid: text for a terminal", function()
  local text = grid():figure():text { colour = false, width = 60 }
  check.ok(text:find "layer" and text:find "5" and not text:find "\27", text)
  check.ok(grid():figure():text({ colour = true }):find "\27", "no colour")
end)

check.test("pb.grid refuses what does not fit", function()
  check.raises(function() pb.grid { values = { 1, 2 } } end, "axes")
  check.raises(function() pb.grid { values = { 1, 2 }, axes = { "a", "b" } } end, "2 axes are named, the values have 1")
  check.raises(function() pb.grid { values = { 1, 2 }, axes = { "a" }, labels = { a = { "x" } } } end, "1 labels for 2 values")
  check.raises(function() pb.grid { values = "x", axes = { "a" } } end, "values, a tensor")
  check.raises(function() pb.grid { value = { 1 }, axes = { "a" } } end, "did you mean 'values'")
end)

-- ---- pb.plot ---------------------------------------------------------------------------------------------------------------

check.test("plot: lines, bars, points, panels", function()
  local g = grid { base = 1, target = 5 }
  local row = pb.mean { g:select { layer = 1 }, g:select { layer = 0 } }
  eq(#pb.plot.line { { y = { 1, 2, 3 }, x = "layer", label = "a" }, { y = pb.tensor { 3, 2, 1 }, x = { 0, 1, 2 } }, { y = row }, title = "t", levels = { 2 },
                          level_labels = { "two" } }:save "lines.png", 1)
  pb.plot.bar { values = { 1, 2, 3 }, labels = { "a", "b", "c" } }:save "bars.svg"
  pb.plot.bar { values = row }:save "bars2.png"
  pb.plot.bar { values = g }:save "bars3.png"
  pb.plot.scatter { x = g, y = g * 2, identity = true, labels = { "a", "b", "c", "d", "e", "f" } }:save "points.pdf"
  pb.plot.scatter { x = { 1, 2 }, y = { 2, 1 }, classes = { 1, 2 }, class_labels = { "one", "two" } }:save "points.png"
  eq(#pb.plot.panels { g:titled "raw", g:recovered():titled "share", title = "both" }:save "panels.png", 2)
  check.ok(pb.plot.line { { y = { 1, 2 } } }:text():find "2")
  check.raises(function() pb.plot.line {} end, "at least one series")
  check.raises(function() pb.plot.line { { label = "x" } } end, "y")
  check.raises(function() pb.plot.line { { y = g } } end, "one axis")
  check.raises(function() pb.plot.line { { y = { 1, 2 }, x = { 1 } } } end, "length 1")
  check.raises(function() pb.plot.line { { y = { 1 }, lable = "x" } } end, "did you mean 'label'")
  check.raises(function() pb.plot.bar { labels = { "a" } } end, "values")
  check.raises(function() pb.plot.scatter { x = { 1 }, y = { 1 }, classes = { 2 }, class_labels = { "one" } } end, "classes")
  check.raises(function() pb.plot.panels { 3 } end, "entry 1 must be a grid")
  check.raises(function() return pb.plot.lines end, "lines")
end)

check.test("plot: attention of chosen heads", function()
  local run = pb.load("facts"):run "When Mary and John went to the store"
  eq(#pb.plot.attention(run, { { layer = 2, head = 3 }, { 4, 0 } }, { mark = run:find "Mary", columns = 2 }):save "attention.png", 2)
  check.raises(function() pb.plot.attention(run, { { 4 } }) end, "entry 1")
  check.raises(function() pb.plot.attention(run, {}) end, "empty")
  check.raises(function() pb.plot.attention(run, { { 4, 9 } }) end, "9")
end)

check.test("figure: what is written into a file", function()
  local figure = pb.figure { title = "t", facts = { model = "facts", site = "z" } }
  figure:heatmap { values = { { 1, 2 } }, row_labels = { "a" }, col_labels = { 1, 2 } }
  figure:save("facts.svg", { note = "mine" })
  check.raises(function() figure:save("x.png", { [3] = "x" }) end, "texts")
  check.raises(function() figure:heatmap { values = { { 1, 2 } }, row_labels = { "a", "b" } } end, "2")
  check.raises(function() figure:heatmap { values = { 1, 2 } } end, "2 axes")
  check.raises(function() figure:heatmap { values = { { 1, 2 } }, marked_cols = { 2 } } end, "marked_cols")
  check.raises(function() pb.figure():save "empty.png" end, "panel")
end)

check.test("grid: changes of a set's sweep keep its own facts; captions are said once, or of whom they are", function()
  local tasks, attribution = require "patchbay.tasks", require "patchbay.attribution"
  local set = tasks.ioi(pb.load "facts", { n = 3, seed = 1 })
  local sweep = set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff" }:titled "heads"
  for _, change in ipairs { sweep:change(), sweep * 2, sweep:recovered "each" } do
    check.eq({ change.metric, change.name, change.about.pairs, #change.parts }, { "logit_diff", "heads", 3, 3 })
  end
  check.eq(sweep:change():recovered().unit, "recovered share of logit difference")
  local estimated = attribution.patching(set, { site = "z" })
  check.eq(estimated:recovered().unit, "estimated share of logit difference")
  local function caption(figure)
    local lines = {}
    for line in figure:text { colour = false, width = 300 }:gmatch "[^\n]+" do lines[#lines + 1] = line end
    return lines[#lines], lines[#lines - 1]
  end
  check.eq((caption(pb.plot.panels { sweep:change():titled "a", sweep:change():titled "b" })), "logit_diff; mean of 3 pairs; change against the run without the patch")
  local last, before = caption(pb.plot.panels { sweep:change():titled "a", sweep:titled "b", sweep:change():titled "c" })
  check.eq(before, "a, c: logit_diff; mean of 3 pairs; change against the run without the patch.")
  check.ok(last:find("^b: logit_diff; mean of 3 pairs; raw values; without the patch −%d"), last)
  local facts = pb.grid { values = pb.tensor { 0.1, 0.2 }, axes = { "layer" }, base = 0, target = 0.9, metric = "prob",
                          about = { facts = 7, items = "facts", base_is = "nothing restored", target_is = "total effect" } }
  check.eq((caption(facts:figure())), "prob; mean of 7 facts; raw values; nothing restored 0; total effect 0.9")
end)
