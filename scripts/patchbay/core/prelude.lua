-- The first of the host's own Lua files. Each of them is run once, before the recipe, as
--     local pb, core = ...
-- pb: the table that recipes get, not sealed yet; core: what only these files see (host.h says what is in it).
local pb, core = ...

pb.null = core.null -- what JSON's null reads as, and what writes it

-- core.check_list(value, what): a list, or an error that says what was expected.
function core.check_list(value, what)
  if type(value) ~= "table" then
    core.raise(("%s must be a list, got %s"):format(what, core.describe(value)))
  end
  return value
end

-- core.sorted_keys(t): the keys of a table with names, in order: what is printed and written never follows the hash.
function core.sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end
