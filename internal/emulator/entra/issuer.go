// The keys of external token issuers.

package entra

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"time"

	"github.com/podid-io/podid/internal/emulator/world"
)

const (
	maxKeySet  = 1 << 20
	fetchLimit = 5 * time.Second // a key set is a small file on a nearby server
)

// publicKey is one usable key of a set.
type publicKey struct {
	id     string
	public crypto.PublicKey
}

// issuerKeys reads the issuer's keys from the place that the world specifies. It does not cache
// them, so changed keys apply at once.
func issuerKeys(ctx context.Context, issuer world.Issuer) ([]publicKey, error) {
	data, err := []byte(issuer.JWKS), error(nil)
	switch {
	case issuer.JWKSFile != "":
		data, err = os.ReadFile(issuer.JWKSFile)
	case issuer.JWKSURL != "":
		data, err = fetch(ctx, issuer.JWKSURL, issuer.CAFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read key set: %w", err)
	}
	return parseKeySet(data)
}

func fetch(ctx context.Context, url, caFile string) ([]byte, error) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
	if caFile != "" {
		text, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s: no PEM certificate in it", caFile)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s", url, answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, maxKeySet))
}

// parseKeySet reads the RSA and EC keys of a JWKS (RFC 7517) and ignores other keys.
func parseKeySet(data []byte) ([]publicKey, error) {
	var set struct {
		Keys []struct{ Kty, Kid, N, E, Crv, X, Y string }
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	var keys []publicKey
	for _, k := range set.Keys {
		var public crypto.PublicKey
		switch k.Kty {
		case "RSA":
			public = rsaKey(k.N, k.E)
		case "EC":
			public = ecKey(k.Crv, k.X, k.Y)
		}
		if public != nil {
			keys = append(keys, publicKey{id: k.Kid, public: public})
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("parse key set: no RSA or EC key in it")
	}
	return keys, nil
}

// rsaKey returns nil unless the values form an RSA key of a reasonable size.
func rsaKey(n, e string) crypto.PublicKey {
	modulus, exponent := bigInt(n), bigInt(e)
	if modulus == nil || exponent == nil || modulus.BitLen() < 1024 || modulus.BitLen() > 8192 ||
		!exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() > 1<<31-1 {
		return nil
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
}

// ecKey returns nil unless the values are a point on a supported curve.
func ecKey(curve, x, y string) crypto.PublicKey {
	curves := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()}
	c, px, py := curves[curve], bigInt(x), bigInt(y)
	if c == nil || px == nil || py == nil {
		return nil
	}
	size := (c.Params().BitSize + 7) / 8
	if len(px.Bytes()) > size || len(py.Bytes()) > size {
		return nil
	}
	point := make([]byte, 1+2*size)
	point[0] = 4 // uncompressed
	px.FillBytes(point[1 : 1+size])
	py.FillBytes(point[1+size:])
	key, err := ecdsa.ParseUncompressedPublicKey(c, point)
	if err != nil {
		return nil
	}
	return key
}

func bigInt(text string) *big.Int {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil
	}
	return new(big.Int).SetBytes(b)
}
