// Lists in JSON.

package listwatch

import (
	stdjson "encoding/json"
	"fmt"
	"io"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"sigs.k8s.io/json"
)

// decodeJSON reads a list and returns its kind. Field names are case-sensitive, as everywhere in
// Kubernetes: encoding/json would read ClientID as clientID.
func (k Kind) decodeJSON(r io.Reader, list *metainternalversion.List) (kind string, err error) {
	decoder := json.NewDecoderCaseSensitivePreserveInts(r)
	if err := expect(decoder, '{'); err != nil {
		return "", err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return "", err
		}
		switch name {
		case "kind":
			err = decoder.Decode(&kind)
		case "metadata":
			err = decoder.Decode(&list.ListMeta)
		case "items":
			err = k.decodeItems(decoder, list)
		default:
			var ignored stdjson.RawMessage
			err = decoder.Decode(&ignored)
		}
		if err != nil {
			return "", err
		}
	}
	return kind, expect(decoder, '}')
}

// decodeItems reads the objects of a list.
func (k Kind) decodeItems(decoder json.Decoder, list *metainternalversion.List) error {
	start, err := decoder.Token()
	if err != nil || start == nil { // items: null
		return err
	}
	if start != stdjson.Delim('[') {
		return fmt.Errorf("items are no array but %v", start)
	}
	for decoder.More() {
		object := k.New()
		if err := decoder.Decode(object); err != nil {
			return err
		}
		if err := k.keep(list, object); err != nil {
			return err
		}
	}
	return expect(decoder, ']')
}

// expect reads one delimiter.
func expect(decoder json.Decoder, want stdjson.Delim) error {
	got, err := decoder.Token()
	if err == nil && got != want {
		err = fmt.Errorf("%v where %v was expected", got, want)
	}
	return err
}
