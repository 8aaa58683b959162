-- The guide's recipes run as printed, sandboxed, and print what the pages say. A recipe is a ```lua block of docs/guide/*.md; the ```text
-- block after it is its output. Numbers may differ as kernels and threads make them (see `close`), the words between them may not.
local pb, check = require "patchbay", require "patchbay.check"
local out = check.output_folder()

-- Without a collection at every step: everything that the recipes call is tested with it elsewhere.
local function stressed()
  local weak = setmetatable({}, { __mode = "k" })
  weak[{}] = true
  pb.zeros(1):close()
  return next(weak) == nil
end

-- The pages that the index links to, the index itself aside.
local function pages()
  local list, seen = {}, {}
  for name in pb.read("docs/guide/README.md"):gmatch "%(([%w_]+)%.md%)" do
    if not seen[name] then list[#list + 1], seen[name] = name, true end
  end
  return list
end

-- List of { code =, output = text or nil, line = } of a page, and the figures that it shows.
local function blocks(page)
  local list, figures, inside, at = {}, {}, nil, 0
  for line in (page .. "\n"):gmatch "(.-)\n" do
    at = at + 1
    if line:match "^```" then
      local kind = line:match "^```(%w*)"
      if inside then inside = nil
      elseif kind == "lua" then
        list[#list + 1] = { code = {}, line = at }
        inside = list[#list].code
      elseif kind == "text" and #list > 0 then
        list[#list].output = {}
        inside = list[#list].output
      else inside = {} end
    elseif inside then inside[#inside + 1] = line
    else
      for figure in line:gmatch "%(%.%./images/([%w_]+%.png)%)" do figures[#figures + 1] = figure end
    end
  end
  return list, figures
end

-- Numbers and the words between them, blanks and signs that belong to a number's width left out.
local function pieces(line)
  local numbers = {}
  local words = line:gsub("[%+%-]?%d+%.?%d*e?[%+%-]?%d*", function(number)
    if not tonumber(number) then return end
    numbers[#numbers + 1] = number
    return "#"
  end)
  return words:gsub("%s+", " "), numbers
end

-- Whole numbers (layers, heads, counts) and what looks like a head's name (2.3) exactly, but for whole ones from 20 on, which are
-- often shares in per cent: within one. Others within 2 units of the last digit or one part in a hundred.
local function close(got, wanted)
  local a, b = tonumber(got), tonumber(wanted)
  if wanted:find "^%d%.%d$" then return a == b end
  if not wanted:find "%." then return a == b or (b >= 20 and math.abs(a - b) <= 1) end
  local unit = 10.0 ^ -#wanted:match "%.(%d*)"
  return math.abs(a - b) <= math.max(2.01 * unit, 0.01 * math.abs(b))
end

local function compare(printed, wanted, where)
  local got = {}
  for line in printed:gmatch "[^\n]+" do
    if not line:find "^wrote " then got[#got + 1] = line end
  end
  for i, line in ipairs(wanted) do
    local words, numbers = pieces(line)
    local own_words, own = pieces(got[i] or "")
    local same = words == own_words and #numbers == #own
    for k, number in ipairs(same and numbers or {}) do same = same and close(own[k], number) end
    check.ok(same, ("%s, line %d of the output: the page says\n        %s\n    and the recipe\n        %s"):format(where, i, line, got[i] or "(nothing)"))
  end
  check.eq(#got, #wanted, where .. ", lines of output")
end

check.test("guide: the comparison sees a wrong number, a wrong word and a missing line", function()
  compare("head 2.3 brings 0.552\n", { "head 2.3 brings 0.553" }, "self-test")
  for _, wrong in ipairs { "head 2.3 brings 0.562", "head 2.4 brings 0.552", "head 2.3 takes 0.552", "head 2.3 brings -0.552", "" } do
    check.raises(function() compare(wrong, { "head 2.3 brings 0.552" }, "self-test") end, "self-test")
  end
  check.raises(function() compare("a\nb", { "a" }, "self-test") end, "lines of output")
end)

local n_pages = 0
for _, name in ipairs(pages()) do
  n_pages = n_pages + 1
  check.test("guide: " .. name .. ".md prints what it says", function()
    if stressed() then check.skip "the collector is stressed" end
    if check.environment "UBSAN_OPTIONS" then check.skip "four minutes under sanitizers; what the recipes call is tested with them elsewhere" end
    local list, figures = blocks(pb.read("docs/guide/" .. name .. ".md"))
    check.ok(#list >= 2, "a page has recipes")
    local folder = out .. "/guide_" .. name
    for _, block in ipairs(list) do
      local where = ("docs/guide/%s.md:%d"):format(name, block.line)
      check.ok(block.output and #block.output > 0, where .. " has no output after it")
      check.ok(#block.code <= 24, where .. " is a long recipe")
      local result = check.recipe { text = table.concat(block.code, "\n"), output = folder }
      check.ok(result.ok, where .. ": " .. tostring(result.message))
      compare(result.printed, block.output, where)
    end
    for _, figure in ipairs(figures) do
      local made = false
      for _, block in ipairs(list) do made = made or table.concat(block.code, "\n"):find('"' .. figure .. '"', 1, true) ~= nil end
      check.ok(made, name .. ".md shows " .. figure .. ", which none of its recipes draws")
    end
  end)
end

check.test("guide: the index has its twelve pages", function() check.ok(n_pages >= 12, "pages: " .. n_pages) end)
