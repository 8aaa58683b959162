/* string.find, match, gmatch and gsub with Lua's patterns, on a matcher that can be stopped: the standard one
 * backtracks in C, where no hook runs, and a short pattern can keep it busy for hours. This one counts its steps and looks at the
 * stop flag every few thousand.
 *
 * Meaning is the reference manual's (Lua 5.4, section 6.4.1): classes, sets, * + - ?, %b, %f, %1, captures, position
 * captures, anchors. */
#include <ctype.h>
#include <string.h>

#include "host/private.h"

enum { CAPTURES = 32, DEPTH = 200, STEPS_BETWEEN_LOOKS = 1 << 14, OPEN = -1, POSITION = -2 };

typedef struct matcher {
    lua_State *L;
    const char *subject, *subject_end, *pattern_end;
    unsigned steps;
    int depth;
    int n;
    struct {
        const char *start;
        ptrdiff_t length; /* or OPEN, POSITION */
    } capture[CAPTURES];
} matcher;

static const char *match_here(matcher *m, const char *s, const char *p);

static void step(matcher *m) {
    if (++m->steps % STEPS_BETWEEN_LOOKS == 0 && pb_context_stopping(pb_host_context(m->L))) {
        pb_host_kill(m->L, pb_host_of(m->L));
        luaL_error(m->L, "stopped");
    }
}

/* ---- one character ----------------------------------------------------------------------------------------------- */

static int in_class(int c, int letter) {
    int yes;
    switch (tolower(letter)) {
    case 'a':
        yes = isalpha(c);
        break;
    case 'c':
        yes = iscntrl(c);
        break;
    case 'd':
        yes = isdigit(c);
        break;
    case 'g':
        yes = isgraph(c);
        break;
    case 'l':
        yes = islower(c);
        break;
    case 'p':
        yes = ispunct(c);
        break;
    case 's':
        yes = isspace(c);
        break;
    case 'u':
        yes = isupper(c);
        break;
    case 'w':
        yes = isalnum(c);
        break;
    case 'x':
        yes = isxdigit(c);
        break;
    default:
        return letter == c; /* an escaped character */
    }
    return isupper(letter) ? !yes : yes;
}

/* End of the single-character item that begins at p. */
static const char *item_end(matcher *m, const char *p) {
    char c = *p++;
    if (c == '%') {
        if (p == m->pattern_end)
            luaL_error(m->L, "malformed pattern (ends with '%%')");
        return p + 1;
    }
    if (c != '[')
        return p;
    if (p < m->pattern_end && *p == '^')
        p++;
    do { /* the first character of a set may be ']' */
        if (p == m->pattern_end)
            luaL_error(m->L, "malformed pattern (missing ']')");
        c = *p++;
        if (c == '%') {
            if (p == m->pattern_end)
                luaL_error(m->L, "malformed pattern (missing ']')");
            p++;
        }
    } while (p == m->pattern_end || *p != ']');
    return p + 1;
}

/* p: at '['; last: at the closing ']'. */
static int in_set(int c, const char *p, const char *last) {
    int inside = 1;
    if (p[1] == '^') {
        inside = 0;
        p++;
    }
    while (++p < last) {
        if (*p == '%') {
            p++;
            if (in_class(c, (unsigned char)*p))
                return inside;
        } else if (p[1] == '-' && p + 2 < last) {
            if ((unsigned char)p[0] <= c && c <= (unsigned char)p[2])
                return inside;
            p += 2;
        } else if ((unsigned char)*p == c) {
            return inside;
        }
    }
    return !inside;
}

static int item_matches(matcher *m, const char *s, const char *p, const char *end) {
    step(m);
    if (s >= m->subject_end)
        return 0;
    int c = (unsigned char)*s;
    switch (*p) {
    case '.':
        return 1;
    case '%':
        return in_class(c, (unsigned char)p[1]);
    case '[':
        return in_set(c, p, end - 1);
    default:
        return (unsigned char)*p == c;
    }
}

/* ---- repetition -------------------------------------------------------------------------------------------------- */

static const char *longest_first(matcher *m, const char *s, const char *p, const char *end) {
    ptrdiff_t i = 0;
    while (item_matches(m, s + i, p, end))
        i++;
    for (; i >= 0; i--) {
        const char *rest = match_here(m, s + i, end + 1);
        if (rest)
            return rest;
    }
    return NULL;
}

static const char *shortest_first(matcher *m, const char *s, const char *p, const char *end) {
    for (;; s++) {
        const char *rest = match_here(m, s, end + 1);
        if (rest)
            return rest;
        if (!item_matches(m, s, p, end))
            return NULL;
    }
}

/* ---- captures ---------------------------------------------------------------------------------------------------- */

static const char *open_capture(matcher *m, const char *s, const char *p, ptrdiff_t kind) {
    if (m->n >= CAPTURES)
        luaL_error(m->L, "too many captures");
    m->capture[m->n].start = s;
    m->capture[m->n].length = kind;
    m->n++;
    const char *rest = match_here(m, s, p);
    if (!rest)
        m->n--;
    return rest;
}

static const char *close_capture(matcher *m, const char *s, const char *p) {
    int i = m->n - 1;
    while (i >= 0 && m->capture[i].length != OPEN)
        i--;
    if (i < 0)
        luaL_error(m->L, "invalid pattern capture");
    m->capture[i].length = s - m->capture[i].start;
    const char *rest = match_here(m, s, p);
    if (!rest)
        m->capture[i].length = OPEN;
    return rest;
}

static const char *back_reference(matcher *m, const char *s, int digit) {
    int i = digit - '1';
    if (i < 0 || i >= m->n || m->capture[i].length == OPEN)
        luaL_error(m->L, "invalid capture index %%%d", i + 1);
    if (m->capture[i].length == POSITION)
        return NULL; /* a place is no text to compare with */
    size_t length = (size_t)m->capture[i].length;
    if ((size_t)(m->subject_end - s) < length || memcmp(m->capture[i].start, s, length) != 0)
        return NULL;
    return s + length;
}

static const char *balanced(matcher *m, const char *s, const char *p) {
    if (m->pattern_end - p < 2)
        luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
    if (s >= m->subject_end || *s != p[0])
        return NULL;
    int depth = 1;
    for (s++; s < m->subject_end; s++) {
        step(m);
        if (*s == p[1]) {
            if (--depth == 0)
                return s + 1;
        } else if (*s == p[0]) {
            depth++;
        }
    }
    return NULL;
}

/* ---- the matcher ------------------------------------------------------------------------------------------------- */

/* The part of a %f[set] before and at s. */
static int at_frontier(matcher *m, const char *s, const char *p, const char *end) {
    int before = s == m->subject ? 0 : (unsigned char)s[-1];
    int at = s < m->subject_end ? (unsigned char)*s : 0;
    return !in_set(before, p, end - 1) && in_set(at, p, end - 1);
}

/* End of the match of pattern p at s, or NULL. Loops for what follows in line, recurses for what may be undone. */
static const char *match_in_line(matcher *m, const char *s, const char *p) {
    while (p < m->pattern_end) {
        if (*p == '(') {
            bool position = p + 1 < m->pattern_end && p[1] == ')';
            return open_capture(m, s, p + (position ? 2 : 1), position ? POSITION : OPEN);
        }
        if (*p == ')')
            return close_capture(m, s, p + 1);
        if (*p == '$' && p + 1 == m->pattern_end)
            return s == m->subject_end ? s : NULL;
        if (*p == '%' && p + 1 < m->pattern_end) {
            if (p[1] == 'b') {
                s = balanced(m, s, p + 2);
                if (!s)
                    return NULL;
                p += 4;
                continue;
            }
            if (p[1] == 'f') {
                p += 2;
                if (p == m->pattern_end || *p != '[')
                    luaL_error(m->L, "missing '[' after '%%f' in pattern");
                const char *end = item_end(m, p);
                if (!at_frontier(m, s, p, end))
                    return NULL;
                p = end;
                continue;
            }
            if (isdigit((unsigned char)p[1])) {
                s = back_reference(m, s, (unsigned char)p[1]);
                if (!s)
                    return NULL;
                p += 2;
                continue;
            }
        }
        const char *end = item_end(m, p);
        char repeat = end < m->pattern_end ? *end : '\0';
        if (repeat == '*')
            return longest_first(m, s, p, end);
        if (repeat == '-')
            return shortest_first(m, s, p, end);
        if (repeat == '+')
            return item_matches(m, s, p, end) ? longest_first(m, s + 1, p, end) : NULL;
        if (repeat == '?') {
            if (item_matches(m, s, p, end)) {
                const char *rest = match_here(m, s + 1, end + 1);
                if (rest)
                    return rest;
            }
            p = end + 1;
            continue;
        }
        if (!item_matches(m, s, p, end))
            return NULL;
        s++;
        p = end;
    }
    return s;
}

static const char *match_here(matcher *m, const char *s, const char *p) {
    if (++m->depth > DEPTH)
        luaL_error(m->L, "pattern too complex");
    const char *rest = match_in_line(m, s, p);
    m->depth--;
    return rest;
}

static const char *match_at(matcher *m, const char *s, const char *p) {
    m->n = 0;
    m->depth = 0;
    return match_here(m, s, p);
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

/* Capture i, or the whole match when the pattern has none and i is 0. */
static void push_capture(matcher *m, int i, const char *start, const char *end) {
    if (i >= m->n) {
        if (i != 0)
            luaL_error(m->L, "invalid capture index %%%d", i + 1);
        lua_pushlstring(m->L, start, (size_t)(end - start));
    } else if (m->capture[i].length == POSITION) {
        lua_pushinteger(m->L, m->capture[i].start - m->subject + 1);
    } else if (m->capture[i].length == OPEN) {
        luaL_error(m->L, "unfinished capture");
    } else {
        lua_pushlstring(m->L, m->capture[i].start, (size_t)m->capture[i].length);
    }
}

/* All captures; the whole match when there is none and `whole`. Returns how many were pushed. */
static int push_captures(matcher *m, const char *start, const char *end, bool whole) {
    int count = m->n == 0 && whole ? 1 : m->n;
    luaL_checkstack(m->L, count, "too many captures");
    for (int i = 0; i < count; i++)
        push_capture(m, i, start, end);
    return count;
}

/* The optional 1-based place to start at, negative from the end. Returns it 0-based, or -1 beyond the end. */
static ptrdiff_t start_argument(lua_State *L, int index, size_t length) {
    lua_Integer place = luaL_optinteger(L, index, 1);
    if (place > 0)
        return (lua_Unsigned)place - 1 > length ? -1 : (ptrdiff_t)(place - 1);
    if (place == 0 || place < -(lua_Integer)length)
        return 0;
    return (ptrdiff_t)((lua_Integer)length + place);
}

static bool has_specials(const char *p, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (strchr("^$*+?.([%-", p[i]) && p[i] != '\0')
            return true;
    return false;
}

/* Plain search. memchr for the first byte, then the rest: at worst length * pattern, so it counts steps too. */
static const char *find_plain(matcher *m, const char *s, const char *p, size_t length) {
    if (length == 0)
        return s;
    while ((size_t)(m->subject_end - s) >= length) {
        step(m);
        s = memchr(s, p[0], (size_t)(m->subject_end - s) - length + 1);
        if (!s || memcmp(s, p, length) == 0)
            return s;
        m->steps |= length > STEPS_BETWEEN_LOOKS ? STEPS_BETWEEN_LOOKS - 1 : 0;
        s++;
    }
    return NULL;
}

static int find_or_match(lua_State *L, bool find) {
    size_t subject_length, pattern_length;
    const char *subject = luaL_checklstring(L, 1, &subject_length);
    const char *pattern = luaL_checklstring(L, 2, &pattern_length);
    ptrdiff_t first = start_argument(L, 3, subject_length);
    if (first < 0) {
        lua_pushnil(L);
        return 1;
    }
    matcher m = {
        .L = L, .subject = subject, .subject_end = subject + subject_length, .pattern_end = pattern + pattern_length};
    const char *s = subject + first;
    if (find && (lua_toboolean(L, 4) || !has_specials(pattern, pattern_length))) {
        const char *at = find_plain(&m, s, pattern, pattern_length);
        if (at) {
            lua_pushinteger(L, at - subject + 1);
            lua_pushinteger(L, at - subject + (lua_Integer)pattern_length);
            return 2;
        }
        lua_pushnil(L);
        return 1;
    }
    bool anchored = pattern_length > 0 && *pattern == '^';
    const char *p = pattern + (anchored ? 1 : 0);
    do {
        const char *end = match_at(&m, s, p);
        if (end) {
            if (!find)
                return push_captures(&m, s, end, true);
            lua_pushinteger(L, s - subject + 1);
            lua_pushinteger(L, end - subject);
            return push_captures(&m, NULL, NULL, false) + 2;
        }
    } while (s++ < m.subject_end && !anchored);
    lua_pushnil(L);
    return 1;
}

static int str_find(lua_State *L) { return find_or_match(L, true); }

static int str_match(lua_State *L) { return find_or_match(L, false); }

/* ---- gmatch ------------------------------------------------------------------------------------------------------ */

/* Upvalues: subject, pattern, place to go on from (0-based), end of the last match (-1: none). */
static int gmatch_next(lua_State *L) {
    size_t subject_length, pattern_length;
    const char *subject = lua_tolstring(L, lua_upvalueindex(1), &subject_length);
    const char *pattern = lua_tolstring(L, lua_upvalueindex(2), &pattern_length);
    ptrdiff_t from = (ptrdiff_t)lua_tointeger(L, lua_upvalueindex(3));
    ptrdiff_t last = (ptrdiff_t)lua_tointeger(L, lua_upvalueindex(4));
    matcher m = {
        .L = L, .subject = subject, .subject_end = subject + subject_length, .pattern_end = pattern + pattern_length};
    for (const char *s = subject + from; from >= 0 && s <= m.subject_end; s++) {
        const char *end = match_at(&m, s, pattern);
        if (end && end - subject != last) { /* an empty match right behind the last one does not count */
            lua_pushinteger(L, end - subject);
            lua_copy(L, -1, lua_upvalueindex(3));
            lua_replace(L, lua_upvalueindex(4));
            return push_captures(&m, s, end, true);
        }
    }
    return 0;
}

static int str_gmatch(lua_State *L) {
    size_t length;
    luaL_checklstring(L, 1, &length);
    luaL_checkstring(L, 2);
    ptrdiff_t from = start_argument(L, 3, length);
    lua_settop(L, 2);
    lua_pushinteger(L, from);
    lua_pushinteger(L, -1);
    lua_pushcclosure(L, gmatch_next, 4);
    return 1;
}

/* ---- gsub -------------------------------------------------------------------------------------------------------- */

static void add_template(matcher *m, luaL_Buffer *out, const char *start, const char *end, const char *text,
                         size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (text[i] != '%') {
            luaL_addchar(out, text[i]);
            continue;
        }
        i++;
        if (i < length && text[i] == '%') {
            luaL_addchar(out, '%');
        } else if (i < length && text[i] == '0') {
            luaL_addlstring(out, start, (size_t)(end - start));
        } else if (i < length && isdigit((unsigned char)text[i])) {
            push_capture(m, text[i] - '1', start, end);
            luaL_tolstring(m->L, -1, NULL); /* a position is an integer */
            lua_remove(m->L, -2);
            luaL_addvalue(out);
        } else {
            luaL_error(m->L, "invalid use of '%%' in replacement string");
        }
    }
}

/* Add the replacement of one match. True if it differs from the match. */
static bool add_replacement(matcher *m, luaL_Buffer *out, const char *start, const char *end) {
    lua_State *L = m->L;
    switch (lua_type(L, 3)) {
    case LUA_TFUNCTION: {
        lua_pushvalue(L, 3);
        int n = push_captures(m, start, end, true);
        lua_call(L, n, 1);
        break;
    }
    case LUA_TTABLE:
        push_capture(m, 0, start, end);
        lua_gettable(L, 3);
        break;
    default: {
        size_t length;
        const char *text = lua_tolstring(L, 3, &length);
        add_template(m, out, start, end, text, length);
        return true;
    }
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        luaL_addlstring(out, start, (size_t)(end - start));
        return false;
    }
    if (!lua_isstring(L, -1))
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    luaL_addvalue(out);
    return true;
}

static int str_gsub(lua_State *L) {
    size_t subject_length, pattern_length;
    const char *subject = luaL_checklstring(L, 1, &subject_length);
    const char *pattern = luaL_checklstring(L, 2, &pattern_length);
    int type = lua_type(L, 3);
    luaL_argexpected(L, type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION || type == LUA_TTABLE, 3,
                     "string/function/table");
    lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)subject_length + 1);
    if (type == LUA_TNUMBER)
        lua_tostring(L, 3); /* in place, before the buffer owns the top of the stack */
    matcher m = {
        .L = L, .subject = subject, .subject_end = subject + subject_length, .pattern_end = pattern + pattern_length};
    bool anchored = pattern_length > 0 && *pattern == '^';
    const char *p = pattern + (anchored ? 1 : 0), *s = subject, *last = NULL;
    lua_Integer count = 0;
    bool changed = false;
    luaL_Buffer out;
    luaL_buffinit(L, &out);
    while (count < most) {
        const char *end = match_at(&m, s, p);
        if (end && end != last) {
            count++;
            changed = add_replacement(&m, &out, s, end) || changed;
            s = last = end;
        } else if (s < m.subject_end) {
            luaL_addchar(&out, *s);
            s++;
        } else {
            break;
        }
        if (anchored)
            break;
    }
    if (!changed) {
        lua_pushvalue(L, 1);
    } else {
        luaL_addlstring(&out, s, (size_t)(m.subject_end - s));
        luaL_pushresult(&out);
    }
    lua_pushinteger(L, count);
    return 2;
}

int pb_sandbox_patterns(lua_State *L, int string_table) {
    static const luaL_Reg functions[] = {
        {"find", str_find}, {"match", str_match}, {"gmatch", str_gmatch}, {"gsub", str_gsub}, {NULL, NULL}};
    lua_pushvalue(L, string_table);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
    return 0;
}
