// Package imdstest is an oracle for tests. It reads a request's target as liberally as any metadata
// service could. A target that it reads as a path under /metadata/identity must not reach the
// service from a pod. It shares no code with package imds, which it checks.
package imdstest

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxReadings bounds the readings of one target. Hostile targets have some dozens.
const maxReadings = 400

// ReadsAsIdentity reports whether any liberal reading of a request's target leads to
// /metadata/identity or below. The target is the part of the request line between method and
// protocol.
func ReadsAsIdentity(target string) bool {
	seen := map[string]bool{target: true}
	for queue := []string{target}; len(queue) > 0 && len(seen) < maxReadings; queue = queue[1:] {
		if isIdentity(queue[0]) {
			return true
		}
		for _, read := range readings() {
			if next := read(queue[0]); !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
		}
	}
	return false
}

// isIdentity is the strict reading: two plain segments, in any case.
func isIdentity(path string) bool {
	first, rest, _ := strings.Cut(strings.TrimLeft(path, "/"), "/")
	second, _, _ := strings.Cut(rest, "/")
	return strings.EqualFold(first, "metadata") && strings.EqualFold(second, "identity")
}

// readings returns the liberties that servers, proxies and frameworks are known to take.
// ReadsAsIdentity combines them in any order.
func readings() []func(string) string {
	return []func(string) string{
		percent, unicodePercent, overlong, lookalikes, slashes, withoutDots, withoutParameters, withoutControls,
		cutAt("?"), cutAt("#"), cutAt("\x00"), cutAt(" "),
		withoutAuthority, withoutScheme, plus, trimSegments, caretSlash,
	}
}

// percent decodes valid escapes once.
func percent(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unicodePercent decodes %uXXXX, as IIS does.
func unicodePercent(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+5 < len(s) && (s[i+1] == 'u' || s[i+1] == 'U') {
			if c, err := strconv.ParseUint(s[i+2:i+6], 16, 16); err == nil {
				b.WriteRune(rune(c))
				i += 5
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// overlong decodes ASCII hidden in two, three or four bytes of bad UTF-8.
func overlong(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c, n := overlongAt(s[i:]); n > 0 {
			b.WriteByte(c)
			i += n - 1
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func overlongAt(s string) (byte, int) {
	for _, lead := range []string{"\xf0\x80", "\xe0", ""} {
		rest, ok := strings.CutPrefix(s, lead)
		if !ok || len(rest) < 2 {
			continue
		}
		high, low := rest[0], rest[1]
		first := byte(0x80)
		if lead == "" {
			first = 0xc0
		}
		if high != first && high != first+1 || low&0xc0 != 0x80 {
			continue
		}
		return high&1<<6 | low&0x3f, len(lead) + 2
	}
	return 0, 0
}

// lookalikes replaces characters with the ASCII ones that normalization or best-fit mapping makes
// of them.
func lookalikes(s string) string {
	if !utf8.ValidString(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 0xff01 && r <= 0xff5e: // fullwidth
			return r - 0xff01 + '!'
		case strings.ContainsRune("\u2044\u2215\u29f8\u2571", r):
			return '/'
		case strings.ContainsRune("\u2216\u29f5\u29f9\ufe68", r):
			return '\\'
		case strings.ContainsRune("\u2024\u3002\ufe52", r):
			return '.'
		case r == '\u0130' || r == '\u0131':
			return 'i'
		case r == '\u212a':
			return 'k'
		case unicode.Is(unicode.Mn, r), strings.ContainsRune("\u00ad\u200b\u200c\u200d\u2060\ufeff", r):
			return -1 // invisible
		default:
			return r
		}
	}, s)
}

func slashes(s string) string { return strings.ReplaceAll(s, `\`, "/") }

func caretSlash(s string) string { return strings.NewReplacer(":", "/", "|", "/", "~", "/").Replace(s) }

func plus(s string) string { return strings.ReplaceAll(s, "+", " ") }

// withoutDots resolves "." and ".." and removes empty segments.
func withoutDots(s string) string {
	var out []string
	for segment := range strings.SplitSeq(s, "/") {
		switch segment {
		case "", ".":
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
		default:
			out = append(out, segment)
		}
	}
	return "/" + strings.Join(out, "/")
}

// withoutParameters removes the part after a ";" from each segment.
func withoutParameters(s string) string {
	segments := strings.Split(s, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return strings.Join(segments, "/")
}

// withoutControls removes control characters and white space.
func withoutControls(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if s[i] > ' ' && s[i] != 0x7f {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// trimSegments removes dots and blanks at the end of segments, as Windows does.
func trimSegments(s string) string {
	segments := strings.Split(s, "/")
	for i, segment := range segments {
		if segment != "." && segment != ".." {
			segments[i] = strings.TrimRight(segment, ". ")
		}
	}
	return strings.Join(segments, "/")
}

func cutAt(separator string) func(string) string {
	return func(s string) string {
		before, _, _ := strings.Cut(s, separator)
		return before
	}
}

// withoutScheme returns the path of an absolute target.
func withoutScheme(s string) string {
	if i := strings.Index(s, "://"); i >= 0 {
		return withoutAuthority(s[i+1:])
	}
	return s
}

// withoutAuthority returns the path of a target such as //host/path.
func withoutAuthority(s string) string {
	rest, ok := strings.CutPrefix(s, "//")
	if !ok {
		return s
	}
	_, path, _ := strings.Cut(rest, "/")
	return "/" + path
}
