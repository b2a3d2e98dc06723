// Lists in protobuf, as Kubernetes wraps them: a prefix, and a message runtime.Unknown whose
// field raw is the list.

package listwatch

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// protobufPrefix starts each answer in protobuf.
const protobufPrefix = "k8s\x00"

// The fields that are read, of runtime.Unknown and of each list.
const (
	unknownTypeMeta, unknownRaw = 1, 2
	listMeta, listItems         = 1, 2
)

// Wire types of protobuf.
const (
	wireVarint, wireFixed64, wireBytes, wireFixed32 = 0, 1, 2, 5
)

// message is a message in protobuf.
type message interface{ Unmarshal(data []byte) error }

// decodeProtobuf reads a list and returns its kind.
func (k Kind) decodeProtobuf(r *bufio.Reader, list *metainternalversion.List) (string, error) {
	if _, err := r.Discard(len(protobufPrefix)); err != nil {
		return "", err
	}
	var meta runtime.TypeMeta
	in := &wire{r: r, left: -1}
	err := in.fields(func(field int, size int64) error {
		switch field {
		case unknownTypeMeta:
			return in.message(size, &meta)
		case unknownRaw:
			inner := &wire{r: r, left: size, buffer: in.buffer}
			return inner.fields(func(field int, size int64) error { return k.decodeField(inner, list, field, size) })
		}
		return in.skip(size)
	})
	return meta.Kind, err
}

// decodeField reads one field of a list.
func (k Kind) decodeField(in *wire, list *metainternalversion.List, field int, size int64) error {
	switch field {
	case listMeta:
		return in.message(size, &list.ListMeta)
	case listItems:
		object := k.New()
		m, ok := object.(message)
		if !ok {
			return fmt.Errorf("%T cannot be read from protobuf", object)
		}
		if err := in.message(size, m); err != nil {
			return err
		}
		return k.keep(list, object)
	}
	return in.skip(size)
}

// wire reads fields of one message of known or unknown length.
type wire struct {
	r      *bufio.Reader
	left   int64 // bytes left of the message; negative: up to the end of the answer
	buffer []byte
}

// errWire is the error of an answer that is not protobuf.
var errWire = errors.New("the answer is damaged")

// fields calls read for each field of a message or string; others are skipped. read must read
// all bytes of its field.
func (w *wire) fields(read func(field int, size int64) error) error {
	for w.left != 0 {
		tag, err := w.varint()
		if errors.Is(err, io.EOF) && w.left < 0 {
			return nil
		}
		if err != nil {
			return err
		}
		switch tag & 7 {
		case wireVarint:
			_, err = w.varint()
		case wireFixed64:
			err = w.fixed(8)
		case wireFixed32:
			err = w.fixed(4)
		case wireBytes:
			err = w.bytes(int(tag>>3), read)
		default:
			err = errWire
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bytes reads the length of a field and then its content.
func (w *wire) bytes(field int, read func(field int, size int64) error) error {
	size, err := w.varint()
	if err != nil {
		return err
	}
	if err := w.consume(int64(size)); err != nil { //nolint:gosec // too large a number becomes negative, and is refused
		return err
	}
	return read(field, int64(size)) //nolint:gosec // as above
}

// fixed skips a number of that many bytes.
func (w *wire) fixed(size int64) error {
	if err := w.consume(size); err != nil {
		return err
	}
	return w.skip(size)
}

// consume counts bytes of the message that are about to be read.
func (w *wire) consume(size int64) error {
	if size < 0 || w.left >= 0 && size > w.left {
		return errWire
	}
	if w.left >= 0 {
		w.left -= size
	}
	return nil
}

// varint reads a number, and counts its bytes.
func (w *wire) varint() (uint64, error) {
	v, err := binary.ReadUvarint(w.r)
	if w.left > 0 {
		w.left = max(w.left-int64(len(binary.AppendUvarint(nil, v))), 0)
	}
	return v, err
}

// message reads a message of that many bytes.
func (w *wire) message(size int64, m message) error {
	if int64(cap(w.buffer)) < size {
		w.buffer = make([]byte, size)
	}
	data := w.buffer[:size]
	if _, err := io.ReadFull(w.r, data); err != nil {
		return err
	}
	return m.Unmarshal(data)
}

// skip skips that many bytes.
func (w *wire) skip(size int64) error {
	_, err := io.CopyN(io.Discard, w.r, size)
	return err
}
