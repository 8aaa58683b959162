-- string.find, match, gmatch, gsub of the sandbox against the standard library's, on random subjects and patterns.
local check = require "patchbay.check"

-- --trust gives package.loaded, and with it the functions that the sandbox replaces.
local compare = [==[
local standard = package.loaded.string
assert(standard.find ~= string.find and standard.gsub ~= string.gsub, "these are the same functions")
local pieces = { "a", "b", ".", "%a", "%d", "%s", "%w", "%p", "%A", "[ab]", "[^a]", "[a-c]", "[%d_]", "[]]", "[^]-]", "[a-]", "%.", "%%",
                 "(", ")", "()", "%b()", "%f[%w]", "%1", "%2", "*", "+", "-", "?", "^", "$", "x", "[", "%", "é", "\0" }
local letters = { "a", "b", "c", "1", "2", "_", " ", ".", "%", "(", ")", "-", "]", "x", "é", "\0" }
local function text(of, most)
  local t = {}
  for i = 1, math.random(0, most) do t[i] = of[math.random(#of)] end
  return table.concat(t)
end
local function packed(...) return select("#", ...), { ... } end
local function both(name, f, g, ...)
  local na, a = packed(pcall(f, ...))
  local nb, b = packed(pcall(g, ...))
  -- the standard library's errors begin with the place; only that both fail counts, and what is said behind it
  if not a[1] then a[2] = a[2]:gsub("^.-:%d+: ", "") end
  if not b[1] then b[2] = b[2]:gsub("^.-:%d+: ", "") end
  local same = na == nb
  for i = 1, na do same = same and a[i] == b[i] end
  if not same then
    local args = { ... }
    for i, v in ipairs(args) do args[i] = type(v) == "string" and ("%q"):format(v) or tostring(v) end
    for i = 1, na do a[i] = tostring(a[i]) end
    for i = 1, nb do b[i] = tostring(b[i]) end
    error(("%s(%s): ours %s, standard %s"):format(name, table.concat(args, ", "), table.concat(a, " "), table.concat(b, " ")), 0)
  end
end
local function all(gmatch, ...)
  local list = {}
  for a, b in gmatch(...) do
    list[#list + 1] = tostring(a) .. "/" .. tostring(b)
    if #list > 50 then break end
  end
  return table.concat(list, "|")
end
for i = 1, 6000 do
  local s, p, start = text(letters, 12), text(pieces, 5), math.random(-14, 14)
  both("find", string.find, standard.find, s, p, start)
  both("match", string.match, standard.match, s, p, start)
  both("plain", string.find, standard.find, s, text(letters, 3), start, true)
  both("gsub", string.gsub, standard.gsub, s, p, text({ "<", ">", "%0", "%1", "%%", "z", "%" }, 3))
  both("gsub", string.gsub, standard.gsub, s, p, "-", math.random(-1, 3))
  both("gsub", string.gsub, standard.gsub, s, p, function(a, b) return b ~= nil and tostring(a) .. tostring(b) or a ~= "a" and tostring(a) end)
  both("gsub", string.gsub, standard.gsub, s, p, { a = "A", b = false, [1] = 7 })
  both("gmatch", function(...) return all(string.gmatch, ...) end, function(...) return all(standard.gmatch, ...) end, s, p)
end
print "same"]==]

check.test("patterns give what the standard library gives", function()
  for seed = 1, 3 do
    local result = check.recipe { text = compare, trust = true, seed = seed, gc_stress = false }
    check.ok(result.ok, result.message)
    check.eq(result.printed, "same\n")
  end
end)

check.test("patterns: a few by hand", function()
  check.eq({ ("key = value"):match "^(%w+)%s*=%s*(%w+)$" }, { "key", "value" })
  check.eq({ ("THE (quick) fox"):find "%((%a+)%)" }, { 5, 11, "quick" })
  check.eq(("hello world"):gsub("o", "0", 1), "hell0 world")
  check.eq(("abc"):gsub("%w", "%0%0"), "aabbcc")
  check.eq(("hello"):gsub("", "-"), "-h-e-l-l-o-")
  check.eq(("THE (quick) fox"):find("%f[%a]%a+%f[%A]", 5), 6)
  check.eq(("x(a(b)c)y"):match "%b()", "(a(b)c)")
  check.eq(("$name is $age"):gsub("%$(%w+)", { name = "Ada", age = 36 }), "Ada is 36")
  check.eq(("[[x]]"):match "%[(%[.-%])%]", "[x]")
  check.raises(function() ("x"):find "[a" end, "malformed pattern (missing ']')")
  check.raises(function() ("x"):find "%" end, "malformed pattern (ends with '%')")
  check.raises(function() ("x"):gsub("x", "%2") end, "invalid capture index %2")
  check.raises(function() ("x"):rep(300):match(("(x"):rep(33)) end, "too many captures")
end)
