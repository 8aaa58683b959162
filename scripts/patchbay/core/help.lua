-- The reference: one table that `patchbay help`, docs/reference.md and a test read. Its pages are in scripts/patchbay/help:
-- every file there returns a list of entries
--     { name = "tensor:select",                        -- "pb.zeros", "run:sweep", "model.layers", "patchbay.trace.rome"; or an
--                                                      -- object or module by itself: "tensor", "patchbay.trace"
--       signature = "t:select(axis, index) -> tensor", -- for functions
--       summary = "One line.",
--       text = [[Shapes, units, defaults, errors, source of the method.]],
--       example = [[Code.]] }                          -- optional
-- A technique's file (scripts/patchbay/NAME.lua) has its pages in scripts/patchbay/help/NAME.lua.
local pb, core = ...

local entries -- loaded when first asked for: name -> entry, and the list in order

local function check_entry(entry, file)
  local function wrong(what) core.raise(("help/%s.lua: entry '%s' %s"):format(file, tostring(entry.name), what)) end
  if type(entry.name) ~= "string" or not entry.name:find "^[%a_][%w_.:]*$" then wrong "needs a name" end
  if type(entry.summary) ~= "string" or entry.summary == "" or entry.summary:find "\n" then wrong "needs a summary of one line" end
  if #entry.summary > 110 then wrong(("has a summary of %d characters; 110 fit"):format(#entry.summary)) end
  for key in pairs(entry) do
    if key ~= "name" and key ~= "signature" and key ~= "summary" and key ~= "text" and key ~= "example" then
      wrong(("has an unknown field '%s'"):format(tostring(key)))
    end
  end
  if entry.name:find "[:.]" and not entry.signature and not entry.name:find "^patchbay%.[%w_]+$" then wrong "needs a signature" end
end

local function load_entries()
  if entries then return entries end
  local list, by_name = {}, {}
  for _, file in ipairs(core.list "help") do
    for _, entry in ipairs(core.load("help/" .. file .. ".lua")()) do
      check_entry(entry, file)
      if by_name[entry.name] then core.raise(("help: two pages for '%s'"):format(entry.name)) end
      by_name[entry.name], list[#list + 1] = entry, entry
    end
  end
  entries = { list = list, by_name = by_name }
  return entries
end
core.help_entries = load_entries

-- "tensor:select" -> "tensor"; "pb.metric.prob" -> "pb.metric"; "tensor" -> "tensor"
local function group_of(name)
  return name:match "^(.+)[:.][^:.]+$" or name
end

-- Every name that a recipe can use, from the tables themselves: what must have a page.
function core.registered()
  local names = {}
  local function add(name) names[#names + 1] = name end
  for key, value in pairs(pb) do
    if type(value) == "function" then
      add("pb." .. key)
    elseif type(value) == "table" then
      for inner, item in pairs(value) do
        if type(item) == "function" then add("pb." .. key .. "." .. inner) end
      end
    end
  end
  for class, methods in pairs(core.methods) do
    local public = false
    for method in pairs(methods) do
      if method ~= "close" then
        add(class .. ":" .. method)
        public = true
      end
    end
    for property in pairs(core.properties[class] or {}) do
      add(class .. "." .. property)
      public = true
    end
    if public then add(class) end
  end
  table.sort(names)
  return names
end

-- ---- printing ----------------------------------------------------------------------------------------------------------------

local function trim(text) return (text:gsub("^\n+", ""):gsub("%s+$", "")) end

local function indent(text, by)
  return ((by .. trim(text):gsub("\n", "\n" .. by)):gsub("\n%s+\n", "\n\n"))
end

local function page(entry)
  local parts = { entry.signature or entry.name, "", "  " .. entry.summary }
  if entry.text then parts[#parts + 1], parts[#parts + 2] = "", indent(entry.text, "  ") end
  if entry.example then
    parts[#parts + 1], parts[#parts + 2], parts[#parts + 3] = "", "  Example:", indent(entry.example, "    ")
  end
  return table.concat(parts, "\n") .. "\n"
end

local function order(group)
  if group == "pb" then return "0" end
  if group:find "^pb%." then return "1" .. group end
  if group:find "^patchbay" then return "3" .. group end
  return "2" .. group
end

-- Groups in order, each with its entries; the entry of the group itself is its head.
local function groups()
  local by_group, names = {}, {}
  for _, entry in ipairs(load_entries().list) do
    local group = entry.name:find "^patchbay%.[%w_]+$" and entry.name or group_of(entry.name)
    if not by_group[group] then
      by_group[group] = {}
      names[#names + 1] = group
    end
    if entry.name == group then by_group[group].head = entry else table.insert(by_group[group], entry) end
  end
  table.sort(names, function(a, b) return order(a) < order(b) end)
  return names, by_group
end

local function list_group(out, name, group)
  out[#out + 1] = ("%s%s"):format(name, group.head and "  " .. group.head.summary or "")
  for _, entry in ipairs(group) do
    out[#out + 1] = ("  %-26s %s"):format(entry.name, entry.summary)
  end
  out[#out + 1] = ""
end

local function find(name)
  local known = load_entries()
  if known.by_name[name] then return { known.by_name[name] } end
  local found = {}
  for _, entry in ipairs(known.list) do
    local last = entry.name:match "[:.]([^:.]+)$"
    if last == name or entry.name == "pb." .. name or entry.name == "patchbay." .. name or entry.name:gsub(":", ".") == name then
      found[#found + 1] = entry
    end
  end
  return found
end

-- The text for `patchbay help NAME` (nil: all names), and whether there is a page.
function core.help(name)
  local out = {}
  local names, by_group = groups()
  if not name then
    out[1] = "\nEvery name, by object. patchbay help NAME prints a page.\n"
    for _, group in ipairs(names) do list_group(out, group, by_group[group]) end
    return table.concat(out, "\n"), true
  end
  local found = find(name)
  for i, entry in ipairs(found) do out[i] = page(entry) end
  local group = by_group[name] or by_group["patchbay." .. name]
  if group and #group > 0 then
    list_group(out, name, group)
  end
  if #out > 0 then return table.concat(out, "\n"), true end
  local all = {}
  for _, entry in ipairs(load_entries().list) do
    all[#all + 1] = entry.name
    all[#all + 1] = entry.name:match "[:.]([^:.]+)$"
  end
  local near = core.suggest(name, all)
  return ("patchbay: no help page '%s'%s\n"):format(name, near and ("; did you mean '%s'?"):format(near) or " (patchbay help lists them)"), false
end

function core.help_markdown()
  local out = { "# Reference", "", "Made by `patchbay help --markdown` from scripts/patchbay/help; do not edit.", "" }
  local names, by_group = groups()
  local function add(entry, level)
    out[#out + 1] = ("%s %s"):format(level, entry.name)
    out[#out + 1] = ""
    if entry.signature then
      out[#out + 1] = ("`%s`"):format(entry.signature)
      out[#out + 1] = ""
    end
    out[#out + 1] = entry.summary
    out[#out + 1] = ""
    if entry.text then
      out[#out + 1] = trim(entry.text)
      out[#out + 1] = ""
    end
    if entry.example then
      out[#out + 1] = "```lua\n" .. trim(entry.example) .. "\n```"
      out[#out + 1] = ""
    end
  end
  for _, name in ipairs(names) do
    local group = by_group[name]
    if group.head then add(group.head, "##") else
      out[#out + 1] = "## " .. name
      out[#out + 1] = ""
    end
    for _, entry in ipairs(group) do add(entry, "###") end
  end
  return table.concat(out, "\n"), true
end

function pb.help(name)
  if name ~= nil and type(name) ~= "string" then core.raise(("pb.help takes a name, got %s"):format(core.describe(name))) end
  local text, found = core.help(name)
  if not found then core.raise((text:gsub("^patchbay: ", ""):gsub("\n$", ""))) end
  core.print(text)
end
