-- The reference: every name that a recipe can use has a page, every page is about something that is there.
local pb = require "patchbay"
local check = require "patchbay.check"

local entries = check.help_entries()

check.test("every registered name has a page", function()
  local missing = {}
  for _, name in ipairs(check.registered()) do
    if not entries.by_name[name] then missing[#missing + 1] = name end
  end
  check.eq(missing, {})
end)

check.test("every page is about something", function()
  local known = {}
  for _, name in ipairs(check.registered()) do known[name] = true end
  local strange = {}
  for _, entry in ipairs(entries.list) do
    local module = entry.name:match "^patchbay%.([%w_]+)$"
    local inner = entry.name:match "^patchbay%.[%w_]+[.:]([%w_.:]+)$"
    local objects = entry.name:match "^[%a_]+$" -- "grid", "patch": pages about ideas and objects made in Lua
    local methods = entry.name:match "^([%a_]+)[:.][%w_]+$"
    if module then
      if not pcall(require, entry.name) then strange[#strange + 1] = entry.name end
    elseif inner then
      local ok, m = pcall(require, entry.name:match "^(patchbay%.[%w_]+)")
      if not ok or type(m) ~= "table" or inner:find "^[%w_]+$" and rawget(m, inner) == nil then strange[#strange + 1] = entry.name end
    elseif not known[entry.name] and not objects and not (methods and entries.by_name[methods] and not known[methods]) then
      strange[#strange + 1] = entry.name
    end
  end
  check.eq(strange, {})
end)

check.test("examples are Lua", function()
  for _, entry in ipairs(entries.list) do
    if entry.example then
      local ok, err = load(entry.example)
      ok = ok or load("return " .. entry.example) or load("return { " .. entry.example .. " }") -- a value, or fields of a table
      check.ok(ok, entry.name .. ": " .. tostring(err))
    end
  end
end)

check.test("pb.help prints a page", function()
  local result = check.recipe { text = 'require "patchbay".help "tensor:narrow"' }
  check.ok(result.ok and result.printed:find("t:narrow(axis, start, length) -> view", 1, true), result.message .. result.printed)
end)
