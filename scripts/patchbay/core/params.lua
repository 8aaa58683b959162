-- pb.params: what a recipe takes from the command line (patchbay run recipe.lua key=value ...).
local pb, core = ...

local function read_number(name, text, default)
  local value = tonumber(text)
  if not value or not text:find "^%s*[-+%d.]" then
    core.raise(("parameter '%s' must be a number, got '%s'"):format(name, text))
  end
  if math.type(default) == "integer" then
    local whole = math.tointeger(value)
    if not whole then core.raise(("parameter '%s' must be an integer (as its default %d is), got '%s'"):format(name, default, text)) end
    return whole
  end
  return value + 0.0
end

local read = { number = read_number }

function read.string(_, text) return text end

function read.boolean(name, text)
  if text == "true" or text == "false" then return text == "true" end
  core.raise(("parameter '%s' must be true or false, got '%s'"):format(name, text))
end

-- A list by commas; its items are of the kind of the default's first one (text if that is empty).
function read.table(name, text, default)
  local list, like = {}, default[1] == nil and "" or default[1]
  for item in (text .. ","):gmatch "(.-)," do
    if item ~= "" or text ~= "" then list[#list + 1] = read[type(like)](name, item, like) end
  end
  return list
end

function pb.params(defaults)
  local given, before = core.take_params()
  if before then core.raise "pb.params may be called once: it gives all of a recipe's parameters" end
  if type(defaults) ~= "table" then
    core.raise(("pb.params takes a table of names and default values, got %s"):format(core.describe(defaults)))
  end
  local values, names = {}, core.sorted_keys(defaults)
  for _, name in ipairs(names) do
    local default = defaults[name]
    if type(name) ~= "string" or not name:find "^[%a_][%w_]*$" then
      core.raise(("pb.params: %s cannot be a parameter's name: letters, digits and '_'"):format(core.describe(name)))
    end
    if not read[type(default)] then
      core.raise(("pb.params: the default of '%s' must be a number, text, true, false or a list, got %s"):format(name, core.describe(default)))
    end
    values[name] = default
  end
  for _, text in ipairs(given) do
    local name, value = text:match "^([%a_][%w_]*)=(.*)$"
    local default = defaults[name]
    if default == nil then
      local near = core.suggest(name, names)
      core.raise(("the recipe has no parameter '%s'%s; it has: %s"):format(name, near and ("; did you mean '%s'?"):format(near) or "",
        #names > 0 and table.concat(names, ", ") or "none"))
    end
    values[name] = read[type(default)](name, value, default)
  end
  return core.seal(values, "params")
end
