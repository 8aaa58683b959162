-- Every function of a technique has its page, every page its function, and the pages can be printed.
local pb, check = require "patchbay", require "patchbay.check"

for _, name in ipairs { "data", "tasks", "patching", "trace", "ablate", "cells", "path", "heads", "lens", "probe", "train", "bpe", "attribution" } do
  check.test("help: every function of patchbay." .. name, function()
    local module, pages = require("patchbay." .. name), check.help_entries().by_name
    check.ok(pages["patchbay." .. name], "the module's own page")
    for key, value in pairs(module) do
      if type(value) == "function" then check.ok(pages[("patchbay.%s.%s"):format(name, key)], "no page for " .. key) end
    end
    for page in pairs(pages) do
      local fn = page:match("^patchbay%." .. name .. "%.([%w_]+)$")
      if fn then check.eq(type(rawget(module, fn)), "function", page) end
    end
  end)
end
