// Package secretvalue reads client secrets, passwords and key files from Secrets, in the forms that
// people and tools write. Its functions are pure. Their results must not be logged.
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

// Byte order marks, which editors and PowerShell write before a text.
const (
	markUTF8    = "\xef\xbb\xbf"
	markLittle  = "\xff\xfe"
	markBig     = "\xfe\xff"
	utf16Length = 2
)

// Text returns a text without its byte order mark, in UTF-8. It returns data without a mark
// unchanged.
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

// The errors of ClientSecret. They reveal nothing about the value.
var (
	ErrKeyFile = errors.New("it holds a certificate or a private key")
	ErrNotText = errors.New("it is binary or has several lines")
)

// ClientSecret returns a client secret without the byte order mark and white space that files and
// editors add. No authority issues secrets with white space around them. It returns ErrKeyFile for
// a certificate or a private key, which must not be sent, and ErrNotText for anything else that
// cannot be a client secret. The result may be empty.
func ClientSecret(data []byte) (string, error) {
	around := func(r rune) bool { return r == '\ufeff' || unicode.IsSpace(r) }
	secret := strings.TrimFunc(string(Text(data)), around)
	if isKeyFile(data) || isKeyFile([]byte(secret)) {
		return "", ErrKeyFile
	}
	if !utf8.ValidString(secret) || strings.ContainsFunc(secret, unicode.IsControl) {
		return "", ErrNotText
	}
	return secret, nil
}

// Password returns the password of a key file without the byte order mark and the line end. It
// keeps blanks, which a password may have.
func Password(data []byte) string {
	return strings.TrimRight(string(Text(data)), "\r\n")
}

// base64Layers is how many layers isKeyFile decodes: Key Vault returns a PFX in base64, and people
// encode the data of a Secret twice by mistake.
const base64Layers = 2

// isKeyFile reports whether data is a certificate or a private key: a PEM file, or DER such as a
// PFX, or either in base64.
func isKeyFile(data []byte) bool {
	for range base64Layers + 1 {
		data = Text(data)
		if bytes.Contains(data, []byte("-----BEGIN ")) || isDER(data) {
			return true
		}
		text := strings.TrimRight(string(bytes.Join(bytes.Fields(data), nil)), "=")
		plain, err := base64.RawStdEncoding.DecodeString(text)
		if err != nil || len(plain) == 0 {
			return false
		}
		data = plain
	}
	return false
}

// minKey is smaller than any private key, and larger than what a client secret in base64 decodes
// to.
const minKey = 40

// isDER reports whether data is one ASN.1 sequence that begins with a version or another sequence,
// as keys, certificates and PFX files do.
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
