-- What an audit says: statistics of the measured cells, each of which counts for as many as its stratum has for each that was
-- measured; and the report, as text, figure and file.
local pb = require "patchbay"
local sample = require "patchbay.sample"

local report, Report = {}, {}

-- Rank of every entry among all cells, as far as the sample tells; equal ones share the middle.
local function ranks(list, weights)
  local order, rank, below = {}, {}, 0
  for i = 1, #list do order[i] = i end
  table.sort(order, function(a, b) return list[a] < list[b] end)
  local first = 1
  while first <= #order do
    local last, tied = first, 0
    while last <= #order and list[order[last]] == list[order[first]] do
      tied, last = tied + weights[order[last]], last + 1
    end
    for k = first, last - 1 do rank[order[k]] = below + tied / 2 end
    below, first = below + tied, last
  end
  return rank
end

local function correlation(x, y, weights)
  local n, mx, my, xx, yy, xy = 0, 0, 0, 0, 0, 0
  for i, w in ipairs(weights) do n, mx, my = n + w, mx + w * x[i], my + w * y[i] end
  mx, my = mx / n, my / n
  for i, w in ipairs(weights) do
    local a, b = x[i] - mx, y[i] - my
    xx, yy, xy = xx + w * a * a, yy + w * b * b, xy + w * a * b
  end
  return xx > 0 and yy > 0 and xy / math.sqrt(xx * yy) or 0 / 0
end

-- All statistics of measured rows; each row counts `weight` cells.
function report.statistics(rows, tiny)
  local x, y, weights = {}, {}, {}
  local mass, wrong_mass, off, listed, n, wrong = 0, 0, 0, 0, 0, 0
  for i, row in ipairs(rows) do
    local w, effect = row.weight, math.abs(row.exact)
    x[i], y[i], weights[i] = row.estimate, row.exact, w
    mass, off = mass + w * effect, off + w * math.abs(row.estimate - row.exact)
    if row.stratum == 0 then listed = listed + w * effect end
    if effect > tiny then
      n = n + w
      if row.estimate * row.exact <= 0 then wrong, wrong_mass = wrong + w, wrong_mass + w * effect end
    end
  end
  return { rank_correlation = correlation(ranks(x, weights), ranks(y, weights), weights), correlation = correlation(x, y, weights),
           relative_error = off / mass, sign_errors = n > 0 and wrong / n or 0, sign_errors_of_effect = wrong_mass / mass,
           effect_in_listed = listed / mass }
end

-- How many of the cells that are not listed may have an effect above a threshold, with this confidence; and how many were seen.
function report.at_most(rows, strata, threshold, confidence)
  local found, open, seen, total = {}, {}, 0, 0
  for _, row in ipairs(rows) do
    if row.stratum > 0 and math.abs(row.exact) > threshold then found[row.stratum], seen = (found[row.stratum] or 0) + 1, seen + 1 end
  end
  for _, s in ipairs(strata) do
    if s.number > 0 and s.drawn < s.size then open[#open + 1] = s elseif s.number > 0 then total = total + (found[s.number] or 0) end
  end
  if seen == 0 then return 0, sample.bound_of_none(open, 1 - confidence) end
  for _, s in ipairs(open) do total = total + sample.upper_bound(s.size, s.drawn, found[s.number] or 0, (1 - confidence) / #open) end
  return seen, total
end

-- ---- telling ---------------------------------------------------------------------------------------------------------------

local function share(x) return ("%.1f %%"):format(100 * x) end

function Report:text()
  local i, m = self.intervals, self.missed
  local all = self.measured == self.population
  local function with(key, format)
    return all and format(self[key]) or ("%s (%s to %s)"):format(format(self[key]), format(i[key][1]), format(i[key][2]))
  end
  local function number(x) return ("%.3f"):format(x) end
  local lines = { ("%d of %d cells patched exactly%s"):format(self.measured, self.population, all and "" or (", intervals of %.0f %%"):format(100 * self.confidence)),
    "rank correlation  " .. with("rank_correlation", number),
    "relative error    " .. with("relative_error", share) .. " of the sum of all effects' sizes" }
  if not self.absolute then
    lines[#lines + 1] = ("wrong sign        %s of cells, %s of the effect"):format(with("sign_errors", share), share(self.sign_errors_of_effect))
  end
  lines[#lines + 1] = ("largest estimates %d cells hold %s of the effect"):format(self.population - m.others, with("effect_in_listed", share))
  if m.others > 0 then
    lines[#lines + 1] = ("missed            of the %d others, %d measured ones are above %.4g (the listed ones' median effect); at most %d of all are"):format(
      m.others, m.found, m.threshold, m.at_most)
    lines[#lines + 1] = ("                  none measured is above %.4g; at most %d of all are"):format(m.largest, m.larger_at_most)
  end
  return table.concat(lines, "\n")
end

-- The same below a figure, in sentences.
local function caption_of(self)
  local i, m, about = self.intervals, self.missed, self.about
  local function with(key, format)
    return self.measured == self.population and format(self[key]) or ("%s (%s to %s)"):format(format(self[key]), format(i[key][1]), format(i[key][2]))
  end
  local text = ("%s at %s by %s%s: %d of %d cells were patched exactly%s. Rank correlation %s, error %s of all effects' sizes%s."):format(
    about.estimate or "estimate", about.site or "a site", about.axes or "cell", about.pairs and (", mean of %s pairs"):format(about.pairs) or "",
    self.measured, self.population, self.measured == self.population and "" or ("; in brackets, intervals of %.0f %%"):format(100 * self.confidence),
    with("rank_correlation", function(x) return ("%.3f"):format(x) end), with("relative_error", share),
    self.absolute and "" or (", wrong sign in %s of cells"):format(with("sign_errors", share)))
  if m.others > 0 then
    text = text .. (" The %d largest estimates hold %s of the effect; of the other %d cells at most %d have more than %.2g, the most that was measured there."):format(
      self.population - m.others, share(self.effect_in_listed), m.others, m.larger_at_most, m.largest)
  end
  return (text:gsub("^%l", string.upper))
end

-- report:figure([options of pb.plot.scatter]) -> figure: estimated against exact
function Report:figure(given)
  local x, y, classes, o = {}, {}, {}, {}
  for i, row in ipairs(self.rows) do x[i], y[i], classes[i] = row.exact, row.estimate, row.stratum == 0 and 1 or 2 end
  for key, value in pairs(given or {}) do o[key] = value end
  o.x, o.y, o.classes, o.class_labels = x, y, classes, { "largest estimates", "sampled" }
  local what = self.absolute and "size of the change" or "change"
  local of = self.about.metric and (" of " .. self.about.metric) or ""
  o.identity, o.x_title, o.y_title = true, o.x_title or ("exact %s%s"):format(what, of), o.y_title or ("estimated %s%s"):format(what, of)
  o.title, o.facts = o.title or "Estimate against exact patch", o.facts or self.about
  o.caption = o.caption or caption_of(self)
  return pb.plot.scatter(o)
end

-- report:save("audit.csv"): one row for each measured cell
function Report:save(path)
  pb.write(path, self.rows, { columns = { "index", "name", "stratum", "weight", "estimate", "exact" } })
  return self
end

function report.new(t)
  return setmetatable(t, { __index = Report, __tostring = Report.text, __name = "audit" })
end

return report
