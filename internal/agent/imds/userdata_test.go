package imds

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestWithoutUserData(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{
			"instance", `{"compute":{"azEnvironment":"AzurePublicCloud","customData":"","userData":"c2VjcmV0","vmId":"v"},"network":{}}`,
			`{"compute":{"azEnvironment":"AzurePublicCloud","vmId":"v"},"network":{}}`,
		},
		{"compute", `{"userData":"c2VjcmV0","tagsList":[{"name":"userData","value":"<a&b>"}]}`, `{"tagsList":[{"name":"userData","value":"<a&b>"}]}`},
		{"any case, any depth", `[{"x":[{"USERDATA":1,"n":12345678901234567890}]}]`, `[{"x":[{"n":12345678901234567890}]}]`},
		{"escaped", `{"user\u0044ata":"c2VjcmV0"}`, `{}`},
		{"twice", `{"userData":"c2VjcmV0","userData":"c2VjcmV0"}`, `{}`},
		{"an object", `{"userData":{"a":"c2VjcmV0"}}`, `{}`},
		{"without, byte for byte", ` {"b" : 1.0, "a":"\u003c"} `, ` {"b" : 1.0, "a":"\u003c"} `},
		{"a string", `"userData"`, `"userData"`},
		{"no JSON", `userData`, "!"},
		{"two values", `{} {"userData":"c2VjcmV0"}`, "!"},
		{"cut off", `{"compute":{"userData":"c2VjcmV0"`, "!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := WithoutUserData([]byte(c.body))
			if (err != nil) != (c.want == "!") || err == nil && string(got) != c.want {
				t.Errorf("got %s, %v; want %s", got, err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("the error quotes the answer: %v", err)
			}
		})
	}
}

// FuzzWithoutUserData looks for an answer that still has the fields.
func FuzzWithoutUserData(f *testing.F) {
	f.Add([]byte(`{"compute":{"UserData":"x","a":[{"customdata":{}}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := WithoutUserData(body)
		if err != nil {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%q became %q", body, got)
		}
		again, err := WithoutUserData(got)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%q became %q and then %q, %v", body, got, again, err)
		}
	})
}
