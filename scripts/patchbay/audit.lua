-- Audit: may a table of estimates be trusted? Patch some of its cells exactly, and say how far off it is. The cells with the
-- largest estimates are all measured (they are what one would report); the others are drawn at random in strata of falling
-- size of estimate, so that large and small ones are both seen. Every statement is about all cells: a cell counts for as many as
-- its stratum has for each that was measured.
local pb = require "patchbay"
local cells, plans, scores = require "patchbay.cells", require "patchbay.plan", require "patchbay.scores"
local sample, report = require "patchbay.sample", require "patchbay.audit_report"

local audit = {}

-- audit.compare { estimates = list or tensor, measure = function(indices) -> list, cells = 200, listed =, strata = 5, seed = 0,
-- confidence = 0.95, resamples = 1000, threshold =, absolute = false, name = function(index) } -> report. Indices count from 0.
function audit.compare(given)
  local o = pb.options(given, { "estimates", "measure", "listed", "threshold", "name", "about", cells = 200, strata = 5, seed = pb.seed, confidence = 0.95,
                                resamples = 1000, absolute = false }, "audit.compare")
  local estimates = getmetatable(o.estimates) == "tensor" and o.estimates:contiguous():tolist() or o.estimates
  if type(estimates) ~= "table" or #estimates < 2 then pb.fail "audit.compare needs estimates, a list or a tensor of two numbers or more" end
  if type(o.measure) ~= "function" then pb.fail "audit.compare needs measure, a function that gives the exact values of a list of cells" end
  for _, key in ipairs { "cells", "strata", "resamples" } do
    if math.type(o[key]) ~= "integer" or o[key] < 1 then pb.fail("audit: %s must be a positive integer, got %s", key, tostring(o[key])) end
  end
  if not (type(o.confidence) == "number" and o.confidence > 0 and o.confidence < 1) then pb.fail("audit: confidence must be between 0 and 1") end
  local strata = sample.strata(estimates, o)
  local rows, wanted, largest = {}, {}, 0
  for _, s in ipairs(strata) do
    for _, index in ipairs(s.chosen) do
      wanted[#wanted + 1] = index
      rows[#rows + 1] = { index = index, estimate = estimates[index + 1], stratum = s.number, weight = s.size / s.drawn, name = o.name and o.name(index) }
    end
  end
  for i, exact in ipairs(o.measure(wanted)) do
    rows[i].exact = o.absolute and math.abs(exact) or exact
    largest = math.max(largest, math.abs(exact))
  end
  local out = report.statistics(rows, largest * 1e-6)
  out.rows, out.strata, out.population, out.measured, out.confidence, out.absolute = rows, strata, #estimates, #rows, o.confidence, o.absolute
  out.about = o.about or {}
  out.intervals = sample.bootstrap(rows, function(drawn) return report.statistics(drawn, largest * 1e-6) end, o)
  local listed, unseen = {}, 0
  for _, row in ipairs(rows) do
    if row.stratum == 0 then listed[#listed + 1] = math.abs(row.exact) else unseen = math.max(unseen, math.abs(row.exact)) end
  end
  table.sort(listed)
  local threshold = o.threshold or listed[(#listed + 1) // 2]
  local seen, bound = report.at_most(rows, strata, threshold, o.confidence)
  local _, larger = report.at_most(rows, strata, unseen, o.confidence)
  out.missed = { threshold = threshold, found = seen, at_most = bound, others = #estimates - #listed, largest = unseen, larger_at_most = larger }
  return report.new(out)
end

-- audit.grid(set, grid [, { site =, metric =, direction =, cells =, ... }]) -> report: any table of scores whose cells can be patched
function audit.grid(set, grid, given)
  local name = "attribution.audit"
  local o = pb.options(given, { "site", "metric", "direction", "layer", "pos", "head", "neuron", "dest", "src", "memory", "listed", "threshold", cells = 200,
                                strata = 5, seed = pb.seed, confidence = 0.95, resamples = 1000, absolute = false }, name)
  set = cells.set(set, name)
  if type(grid) ~= "table" or getmetatable(grid) ~= "grid" then pb.fail("%s(set, grid): the second argument must be a grid of scores", name) end
  local about = grid.about or {}
  o.site, o.metric, o.direction = o.site or about.site, o.metric or about.metric or "logit_diff", o.direction or about.direction or "denoising"
  o.over, o.absolute = grid.axes, o.absolute or about.absolute == "yes"
  for _, axis in ipairs(grid.axes) do o[axis] = grid.coords[axis] end
  local plan = plans.new(set, o, name)
  local into, from = scores.sides(o.direction, name)
  local count, shape, kept, estimates = grid.values.count, grid.values.shape, {}, {}
  local function cell_of(index)
    local cell = {}
    for a = #plan.axes, 1, -1 do
      cell[plan.axes[a]], index = plan.coords[plan.axes[a]][index % shape[a] + 1], index // shape[a]
    end
    return cell
  end
  local flat = grid.values:contiguous():tolist()
  for k = 0, count - 1 do
    local cell = cell_of(k)
    local masked = type(cell.dest) == "number" and type(cell.src) == "number" and cell.src > cell.dest
    if not masked then kept[#kept + 1], estimates[#estimates + 1] = k, flat[k + 1] end
  end
  local function measure(indices)
    local list = {}
    for i, index in ipairs(indices) do list[i] = cell_of(kept[index + 1]) end
    local exact = cells.measure(set, cells.named(list, "cell"), function(pair, cell, i)
      local patch = plans.place(plan, set, i, cell)
      patch.from = pair[from]
      return { patch }
    end, { metric = o.metric, run = into, memory = o.memory })
    return exact:change().values:tolist()
  end
  local function label(index)
    local cell, parts = cell_of(kept[index + 1]), {}
    for i, axis in ipairs(plan.axes) do parts[i] = axis .. " " .. (type(cell[axis]) == "table" and (cell[axis].name or table.concat(cell[axis], ",")) or tostring(cell[axis])) end
    return table.concat(parts, ", ")
  end
  local facts = {}
  for key, value in pairs(about) do facts[key] = tostring(value) end
  facts.estimate, facts.metric = grid.name, facts.metric or tostring(o.metric)
  return audit.compare { estimates = estimates, measure = measure, cells = o.cells, listed = o.listed, strata = o.strata, seed = o.seed,
                         about = facts,
                         confidence = o.confidence, resamples = o.resamples, threshold = o.threshold, absolute = o.absolute, name = label }
end

return audit
