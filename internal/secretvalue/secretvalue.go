// Package secretvalue reads what people put into Secrets: client secrets, passwords and key files.
// Its functions are pure. Their results must not be logged.
package secretvalue

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// The byte order marks, which editors and PowerShell put before a text.
const (
	markUTF8    = "\xef\xbb\xbf"
	markLittle  = "\xff\xfe"
	markBig     = "\xfe\xff"
	utf16Length = 2
)

// Text returns a text without its byte order mark, in UTF-8. Data without a mark is returned as it
// is.
func Text(data []byte) []byte {
	switch {
	case bytes.HasPrefix(data, []byte(markUTF8)):
		return data[len(markUTF8):]
	case bytes.HasPrefix(data, []byte(markLittle)):
		return fromUTF16(data[len(markLittle):], binary.LittleEndian)
	case bytes.HasPrefix(data, []byte(markBig)):
		return fromUTF16(data[len(markBig):], binary.BigEndian)
	default:
		return data
	}
}

func fromUTF16(data []byte, order binary.ByteOrder) []byte {
	units := make([]uint16, 0, len(data)/utf16Length)
	for ; len(data) >= utf16Length; data = data[utf16Length:] {
		units = append(units, order.Uint16(data))
	}
	return []byte(string(utf16.Decode(units)))
}

// The errors of ClientSecret. They say nothing of the value.
var (
	ErrKeyFile = errors.New("it holds a certificate or a private key")
	ErrNotText = errors.New("it is binary or has several lines")
)

// ClientSecret returns a client secret without a byte order mark and without the blanks and line
// ends around it, which files and editors add: no authority issues secrets with them. It returns
// ErrKeyFile for a certificate or a private key, which must not be sent, and ErrNotText for
// anything else that is no client secret. The result may be empty.
func ClientSecret(data []byte) (string, error) {
	around := func(r rune) bool { return r == '\ufeff' || unicode.IsSpace(r) }
	secret := strings.TrimFunc(string(Text(data)), around)
	if IsKeyFile(data) || IsKeyFile([]byte(secret)) {
		return "", ErrKeyFile
	}
	if !utf8.ValidString(secret) || strings.ContainsFunc(secret, unicode.IsControl) {
		return "", ErrNotText
	}
	return secret, nil
}

// Password returns the password of a key file without a byte order mark and without the line end
// after it. Blanks stay: a password may have them.
func Password(data []byte) string {
	return strings.TrimRight(string(Text(data)), "\r\n")
}

// base64Layers are those that IsKeyFile looks through: Key Vault writes a PFX in base64, and some
// write what they put into a Secret's data in base64 twice.
const base64Layers = 2

// IsKeyFile reports whether data is a certificate or a private key: a PEM file, or DER such as a
// PFX, or either in base64.
func IsKeyFile(data []byte) bool {
	for range base64Layers + 1 {
		data = Text(data)
		if bytes.Contains(data, []byte("-----BEGIN ")) || isDER(data) {
			return true
		}
		plain, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(string(bytes.Join(bytes.Fields(data), nil)), "="))
		if err != nil || len(plain) == 0 {
			return false
		}
		data = plain
	}
	return false
}

// minKey is less than the smallest private key has, and more than a client secret in base64 holds.
const minKey = 40

// isDER reports whether data is one ASN.1 sequence that begins as keys, certificates and PFX files
// do: with a version or with another sequence.
func isDER(data []byte) bool {
	const indefinite = "\x30\x80" // BER, which old programs write
	if len(data) < minKey {
		return false
	}
	if bytes.HasPrefix(data, []byte(indefinite)) {
		return true
	}
	var outer, first asn1.RawValue
	if rest, err := asn1.Unmarshal(data, &outer); err != nil || len(bytes.TrimSpace(rest)) > 0 || !isSequence(outer) {
		return false
	}
	_, err := asn1.Unmarshal(outer.Bytes, &first)
	return err == nil && first.Class == asn1.ClassUniversal && (first.Tag == asn1.TagInteger || isSequence(first))
}

func isSequence(v asn1.RawValue) bool {
	return v.Class == asn1.ClassUniversal && v.Tag == asn1.TagSequence && v.IsCompound
}
