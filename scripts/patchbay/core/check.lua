-- require "patchbay.check": tests. A test file calls check.test(name, function() ... end); each runs at once, a failure is
-- told and counted, and the next one runs. `patchbay test PATH ...` runs files and adds up.
local pb, core = ...

local check = {}
local passed, failed, skipped = 0, 0, 0


local SKIP = {} -- what check.skip raises

local function fail(message)
  error(message, 0)
end

local function say(text) core.print(text .. "\n") end

-- The text of any value, tables by their content.
local function show(value, depth)
  if type(value) == "string" then return ("%q"):format(value) end
  if type(value) ~= "table" or (getmetatable(value) and getmetatable(value).__tostring) then return tostring(value) end
  if (depth or 0) > 3 then return "{...}" end
  local parts, n = {}, #value
  for i = 1, math.min(n, 20) do parts[i] = show(value[i], (depth or 0) + 1) end
  if n > 20 then parts[#parts + 1] = ("... %d more"):format(n - 20) end
  local keys = {}
  for key in pairs(value) do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then keys[#keys + 1] = tostring(key) end
  end
  table.sort(keys)
  for _, key in ipairs(keys) do parts[#parts + 1] = key .. " = " .. show(value[key], (depth or 0) + 1) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

local function is_tensor(value) return type(value) == "userdata" and getmetatable(value) == "tensor" end

-- The first place where two values differ, as text; nil if they are equal. Tensors by shape and every bit of content.
local function difference(got, wanted, where)
  if is_tensor(got) or is_tensor(wanted) then
    if not (is_tensor(got) and is_tensor(wanted)) then return ("%s: got %s, expected %s"):format(where, show(got), show(wanted)) end
    return difference({ got.dtype, got.shape, got:totable() }, { wanted.dtype, wanted.shape, wanted:totable() }, where .. " (dtype, shape, values)")
  end
  if type(got) == "table" and type(wanted) == "table" then
    for key, value in pairs(wanted) do
      local found = difference(got[key], value, ("%s[%s]"):format(where, tostring(key)))
      if found then return found end
    end
    for key, value in pairs(got) do
      if wanted[key] == nil then return ("%s[%s]: got %s, expected nothing"):format(where, tostring(key), show(value)) end
    end
    return nil
  end
  local same = got == wanted or (got ~= got and wanted ~= wanted)
  if not same or math.type(got) ~= math.type(wanted) then
    return ("%s: got %s, expected %s"):format(where, show(got), show(wanted))
  end
end

local function with(note, text) return note and note .. ": " .. text or text end

function check.ok(condition, note)
  if not condition then fail(with(note, "expected something true, got " .. tostring(condition))) end
end

-- Equal: numbers of the same kind and value (NaN equals NaN), tables and tensors by content.
function check.eq(got, wanted, note)
  local found = difference(got, wanted, "value")
  if found then fail(with(note, found)) end
end

-- Every number within `tolerance` (absolute; default 1e-6) of what is expected: numbers, tensors, nested lists.
function check.close(got, wanted, tolerance, note)
  tolerance = tolerance or 1e-6
  local function compare(a, b, where)
    if is_tensor(a) then a = a:totable() end
    if is_tensor(b) then b = b:totable() end
    if type(a) == "table" and type(b) == "table" then
      if #a ~= #b then fail(with(note, ("%s: got %d elements, expected %d"):format(where, #a, #b))) end
      for i = 1, #b do compare(a[i], b[i], ("%s[%d]"):format(where, i)) end
      return
    end
    if type(a) ~= "number" or type(b) ~= "number" then
      fail(with(note, ("%s: got %s, expected %s"):format(where, show(a), show(b))))
    end
    if a ~= b and not (math.abs(a - b) <= tolerance) then
      fail(with(note, ("%s: got %.9g, expected %.9g within %g (differs by %.3g)"):format(where, a, b, tolerance, math.abs(a - b))))
    end
  end
  compare(got, wanted, "value")
end

-- fn must raise an error whose text contains every one of the given texts (plain, not patterns). Returns the text.
function check.raises(fn, ...)
  local ok, err = pcall(fn)
  if ok then fail "expected an error, and there was none" end
  local text = tostring(err)
  for _, part in ipairs { ... } do
    if not text:find(part, 1, true) then fail(("the error is\n        %s\n    and does not contain\n        %s"):format(text, part)) end
  end
  return text
end

-- Leave the running test, counted as skipped.
function check.skip(reason)
  error(setmetatable({ reason = reason }, SKIP), 0)
end

local function handler(err)
  if type(err) == "table" and getmetatable(err) == SKIP then return err end
  return tostring(err)
end

function check.test(name, fn)
  if core.environment and core.environment "VERBOSE" == "2" then say("RUN " .. name) end
  local ok, err = xpcall(fn, handler)
  if ok then
    passed = passed + 1
  elseif type(err) == "table" then
    skipped = skipped + 1
    say(("SKIP %s: %s"):format(name, tostring(err.reason)))
  else
    failed = failed + 1
    say(("FAIL %s: %s%s"):format(name, core.where(), tostring(err)))
  end
end

-- Every allocation that fn makes fails once ("library": tensors and models; "lua": Lua's own): each time it must raise, and
-- give back all memory; in the end it must succeed. Returns the number of failures.
function check.exhaust(fn, kind, most)
  kind = kind or "library"
  fn() -- warm: what is made once and kept is not a leak
  local before = core.memory_used and core.memory_used() or 0
  for n = 1, most or 10000 do
    local came, ok, err = core.with_failure(n, kind, fn)
    if not came then
      if not ok then fail(("without a failure: %s"):format(tostring(err))) end
      return n - 1
    end
    if not ok and not tostring(err):find "memory" then
      fail(("allocation %d failed, and the error does not say so: %s"):format(n, tostring(err)))
    end
    if ok and kind == "library" then fail(("allocation %d failed, and nothing was said"):format(n)) end
    local after = core.memory_used()
    if after > before then fail(("allocation %d failed, and %d bytes were not given back"):format(n, after - before)) end
  end
  fail "it never succeeded"
end

-- Run a recipe in a state of its own: check.recipe { text = [[...]], memory = bytes, time = seconds, params = { "k=v" } }
-- -> { ok, status, message, printed, seconds, leaked }. Leaked bytes are a failure.
function check.recipe(options)
  local result = core.run_recipe(options)
  if result.leaked ~= 0 then fail(("the recipe's state leaked %d bytes"):format(result.leaked)) end
  return result
end

check.registered = core.registered
check.help_entries = core.help_entries
check.output_folder = core.output_folder
check.environment = core.environment
check.link = core.link

function core.check_counts()
  return passed, failed, skipped
end

core.loaded["patchbay.check"] = check
